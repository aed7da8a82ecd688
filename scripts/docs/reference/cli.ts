/** The command line, from what commander knows. */
import { PassThrough } from "node:stream";
import type { Command } from "commander";
import { Output } from "../../../cli/console.ts";
import { EXIT, exitCodeMeanings } from "../../../cli/errors.ts";
import { buildProgram } from "../../../cli/program.ts";
import { code, page, table } from "./markdown.ts";

const nameOf = (command: Command): string =>
  command.parent ? `${nameOf(command.parent)} ${command.name()}` : command.name();

/** Commands with something to do: those below a group, and groups that run themselves. */
function leaves(command: Command): Command[] {
  return command.commands.filter((child) => child.name() !== "help").flatMap((child) => [child, ...leaves(child)]);
}

function section(command: Command): string {
  const name = nameOf(command);
  const options = command.createHelp().visibleOptions(command);
  const given = command.registeredArguments;
  const defaultOf = (value: unknown, description?: string): string =>
    value === undefined || value === false ? "" : (description ?? JSON.stringify(value));
  return [
    `${"#".repeat(Math.min(4, name.split(" ").length))} ${name}`,
    command.description(),
    `\`\`\`text\n${name} ${command.usage()}\n\`\`\``,
    given.length > 0 &&
      table(
        ["argument", "meaning"],
        given.map((argument) => [code(argument.name()), argument.description]),
      ),
    options.length > 0 &&
      table(
        ["option", "meaning", "default"],
        options.map((option) => [
          code(option.flags),
          option.description + (option.argChoices ? ` (${option.argChoices.join(", ")})` : ""),
          code(defaultOf(option.defaultValue, option.defaultValueDescription)),
        ]),
      ),
  ]
    .filter(Boolean)
    .join("\n\n");
}

export function cliPage(): string {
  const stdin = new PassThrough(); // no command runs
  const context = {
    out: new Output({ json: false }),
    stdin,
    signal: new AbortController().signal,
    exitCode: EXIT.done,
  };
  const program = buildProgram(context);
  const commands = leaves(program);
  const summary = table(
    ["command", "what it does"],
    program.commands
      .filter((c) => c.name() !== "help")
      .map((c) => [`[janus ${c.name()}](#janus-${c.name()})`, c.summary() || c.description()]),
  );
  const exits = table(
    ["exit code", "meaning"],
    exitCodeMeanings.map(([exit, meaning]) => [String(exit), meaning]),
  );
  const body = [program.description(), summary, ...commands.map(section), "## Exit codes", exits].join("\n\n");
  return page("Command line", "the definitions of the commands", body);
}
