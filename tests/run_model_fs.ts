/**
 * A file system in memory that writes down what is done to it, and from the log builds every state that a crash may leave: what was not synced is
 * dropped, torn or zeroed, and names that were not synced are lost in any combination. Stricter than real file systems, which keep some order.
 */
import { bytesFile } from "../model/io/bytes.ts";
import { FileError } from "../model/node/files.ts";
import type { Entry, FileSystem, OutputFile } from "../train/node/run/file_system.ts";

interface FileNode {
  readonly kind: "file";
  readonly id: number;
  bytes: Uint8Array;
}
interface FolderNode {
  readonly kind: "folder";
  readonly id: number;
  readonly entries: Map<string, Node>;
}
type Node = FileNode | FolderNode;

type Op =
  | { readonly type: "data"; readonly file: FileNode; readonly bytes: Uint8Array }
  | { readonly type: "sync"; readonly file: FileNode }
  /** Change of one folder, all or none: a name set, taken away, or moved. */
  | {
      readonly type: "names";
      readonly folder: FolderNode;
      readonly changes: readonly (readonly [string, Node | null])[];
    }
  | { readonly type: "syncFolder"; readonly folder: FolderNode }
  | { readonly type: "mark"; readonly step: number };

export type Operation = keyof FileSystem | "write" | "sync" | "close";

/** Called before each operation; what it throws fails the operation. `half` writes half of the bytes first. */
export type Hook = (operation: Operation, path: string, half: () => void) => void;

export class ModelFileSystem implements FileSystem {
  readonly log: Op[] = [];
  readonly root: FolderNode;
  hook: Hook = () => undefined;
  /** Bytes that are said to be free. */
  room = Infinity;
  private ids = 1;

  constructor(root: FolderNode = { kind: "folder", id: 0, entries: new Map() }) {
    this.root = root;
    const seen = (node: Node): void => {
      this.ids = Math.max(this.ids, node.id + 1);
      if (node.kind === "folder") for (const child of node.entries.values()) seen(child);
    };
    seen(root);
  }

  /** `save(step)` has returned. */
  mark(step: number): void {
    this.log.push({ type: "mark", step });
  }

  /** Everything so far counts as synced. */
  settle(): void {
    const all = (node: Node): void => {
      if (node.kind === "file") this.log.push({ type: "sync", file: node });
      else {
        this.log.push({ type: "syncFolder", folder: node });
        for (const child of node.entries.values()) all(child);
      }
    };
    all(this.root);
  }

  async makeFolder(path: string): Promise<void> {
    this.hook("makeFolder", path, () => undefined);
    this.add(path, { kind: "folder", id: this.ids++, entries: new Map() });
  }

  async create(path: string): Promise<OutputFile> {
    this.hook("create", path, () => undefined);
    const file: FileNode = { kind: "file", id: this.ids++, bytes: new Uint8Array(0) };
    this.add(path, file);
    const append = (bytes: Uint8Array): void => {
      this.log.push({ type: "data", file, bytes: bytes.slice() });
      file.bytes = joined([file.bytes, bytes]);
    };
    return {
      write: async (bytes) => {
        this.hook("write", path, () => append(bytes.subarray(0, bytes.length >> 1)));
        append(bytes);
      },
      sync: async () => {
        this.hook("sync", path, () => undefined);
        this.log.push({ type: "sync", file });
      },
      close: async () => this.hook("close", path, () => undefined),
    };
  }

  async syncFolder(path: string): Promise<void> {
    this.hook("syncFolder", path, () => undefined);
    this.log.push({ type: "syncFolder", folder: this.folder(path) });
  }

  async rename(from: string, to: string): Promise<void> {
    this.hook("rename", from, () => undefined);
    const [folder, name] = this.parent(from);
    const [target, newName] = this.parent(to);
    if (folder !== target) throw new Error("the model moves nothing from folder to folder");
    const node = folder.entries.get(name);
    if (!node) throw failure(from, "ENOENT");
    const there = folder.entries.get(newName);
    if (there && !(there.kind === "folder" && node.kind === "folder" && there.entries.size === 0))
      throw failure(to, "ENOTEMPTY");
    this.change(folder, [[name, null], [newName, node]]); // prettier-ignore
  }

  async removeFile(path: string): Promise<void> {
    this.hook("removeFile", path, () => undefined);
    const [folder, name] = this.parent(path);
    if (folder.entries.get(name)?.kind !== "file") throw failure(path, "ENOENT");
    this.change(folder, [[name, null]]);
  }

  async removeFolder(path: string): Promise<void> {
    this.hook("removeFolder", path, () => undefined);
    const [folder, name] = this.parent(path);
    const node = folder.entries.get(name);
    if (node?.kind !== "folder") throw failure(path, "ENOTDIR");
    if (node.entries.size) throw failure(path, "ENOTEMPTY");
    this.change(folder, [[name, null]]);
  }

  async list(path: string): Promise<Entry[]> {
    this.hook("list", path, () => undefined);
    return [...this.folder(path).entries].map(([name, { kind }]) => ({ name, kind }));
  }

  async open(path: string): ReturnType<FileSystem["open"]> {
    this.hook("open", path, () => undefined);
    const node = this.find(path);
    if (node?.kind !== "file") throw failure(path, node ? "EISDIR" : "ENOENT");
    return bytesFile(path, node.bytes);
  }

  async kind(path: string): ReturnType<FileSystem["kind"]> {
    this.hook("kind", path, () => undefined);
    return this.find(path)?.kind ?? null;
  }

  async freeBytes(path: string): Promise<number> {
    this.hook("freeBytes", path, () => undefined);
    return this.room;
  }

  private add(path: string, node: Node): void {
    const [folder, name] = this.parent(path);
    if (folder.entries.has(name)) throw failure(path, "EEXIST");
    this.change(folder, [[name, node]]);
  }

  private change(folder: FolderNode, changes: readonly (readonly [string, Node | null])[]): void {
    this.log.push({ type: "names", folder, changes });
    applyNames(folder.entries, changes);
  }

  private find(path: string): Node | undefined {
    let node: Node | undefined = this.root;
    for (const part of partsOf(path)) node = node?.kind === "folder" ? node.entries.get(part) : undefined;
    return node;
  }

  private folder(path: string): FolderNode {
    const node = this.find(path);
    if (node?.kind !== "folder") throw failure(path, node ? "ENOTDIR" : "ENOENT");
    return node;
  }

  private parent(path: string): [FolderNode, string] {
    const parts = partsOf(path);
    return [this.folder(parts.slice(0, -1).join("/")), parts.at(-1) ?? ""];
  }
}

const partsOf = (path: string): string[] => path.split("/").filter((part) => part !== "");

const failure = (path: string, code: string): FileError => new FileError(`${path}: ${code} (of the model)`, code);

function joined(parts: readonly Uint8Array[]): Uint8Array {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

function applyNames(entries: Map<string, Node>, changes: readonly (readonly [string, Node | null])[]): void {
  for (const [name, node] of changes) {
    if (node) entries.set(name, node);
    else entries.delete(name);
  }
}

/** What of the unsynced bytes of a file is there after a crash. */
const FATES = ["lost", "torn", "zeros", "hole", "all"] as const;
type Fate = (typeof FATES)[number];

function contentAfter(synced: Uint8Array, unsynced: readonly Uint8Array[], fate: Fate): Uint8Array {
  const bytes = joined(unsynced);
  if (fate === "lost") return synced;
  if (fate === "torn") return joined([synced, bytes.subarray(0, bytes.length >> 1)]);
  if (fate === "zeros") bytes.fill(0);
  if (fate === "hole") bytes.fill(0, 0, unsynced[0]!.length); // the first write is missing, the later ones are there
  return joined([synced, bytes]);
}

export interface CrashState {
  /** How many operations were done before the crash. */
  readonly at: number;
  /** The last step that `mark` was called for; null before the first. */
  readonly marked: number | null;
  readonly fileSystem: ModelFileSystem;
  /** The same for states that hold the same. */
  readonly key: string;
}

/** The disk after the operations so far: what is synced, and what is not yet. */
class Disk {
  readonly names = new Map<FolderNode, Map<string, Node>>();
  readonly contents = new Map<FileNode, Uint8Array>();
  pendingNames: Extract<Op, { type: "names" }>[] = [];
  readonly pendingData = new Map<FileNode, Uint8Array[]>();
  marked: number | null = null;

  apply(op: Op): void {
    if (op.type === "data") this.pendingData.set(op.file, [...(this.pendingData.get(op.file) ?? []), op.bytes]);
    else if (op.type === "sync") {
      this.contents.set(op.file, joined([this.contentOf(op.file), ...(this.pendingData.get(op.file) ?? [])]));
      this.pendingData.delete(op.file);
    } else if (op.type === "names") this.pendingNames.push(op);
    else if (op.type === "syncFolder") {
      for (const { folder, changes } of this.pendingNames) {
        if (folder === op.folder) applyNames(this.namesOf(folder), changes);
      }
      this.pendingNames = this.pendingNames.filter(({ folder }) => folder !== op.folder);
    } else this.marked = op.step;
  }

  namesOf(folder: FolderNode): Map<string, Node> {
    if (!this.names.has(folder)) this.names.set(folder, new Map());
    return this.names.get(folder)!;
  }

  contentOf(file: FileNode): Uint8Array {
    return this.contents.get(file) ?? new Uint8Array(0);
  }

  /** All that some crash may leave within reach of the root. */
  reachable(root: FolderNode): Set<Node> {
    const found = new Set<Node>([root]);
    for (const node of found) {
      if (node.kind === "file") continue;
      for (const child of this.namesOf(node).values()) found.add(child);
      for (const { folder, changes } of this.pendingNames) {
        if (folder === node) for (const [, child] of changes) if (child) found.add(child);
      }
    }
    return found;
  }
}

export interface Enumeration {
  /** States built, and how many of them by chance because there were too many to build all. */
  states: number;
  sampled: number;
}

/**
 * Every state that a crash after any number of the logged operations may leave. If one moment has more than `limit`, `limit` of them by
 * chance from `random`, with the all and the nothing among them.
 */
export function* crashStates(
  { log, root }: ModelFileSystem,
  counts: Enumeration,
  random: () => number,
  limit = 2048,
): Generator<CrashState> {
  const disk = new Disk();
  for (let at = 0; at <= log.length; at++) {
    if (at > 0) disk.apply(log[at - 1]!);
    const reachable = disk.reachable(root);
    const names = disk.pendingNames.filter(({ folder }) => reachable.has(folder));
    const files = [...disk.pendingData].filter(([file]) => reachable.has(file));
    const fates = files.map(([, writes]) => FATES.filter((fate) => fate !== "hole" || writes.length > 1));
    const radices = [...names.map(() => 2), ...fates.map((all) => all.length)];
    const total = radices.reduce((product, radix) => product * radix, 1);
    const isAll = total <= limit;
    for (let i = 0; i < Math.min(total, limit); i++) {
      let rest = i;
      const digits = radices.map((radix) => {
        if (!isAll) return i === 0 ? 0 : i === 1 ? radix - 1 : Math.floor(random() * radix);
        const digit = rest % radix;
        rest = Math.floor(rest / radix);
        return digit;
      });
      counts.states++;
      if (!isAll) counts.sampled++;
      const kept = new Map<FolderNode, Map<string, Node>>();
      const entriesOf = (folder: FolderNode): Map<string, Node> => {
        if (!kept.has(folder)) kept.set(folder, new Map(disk.namesOf(folder)));
        return kept.get(folder)!;
      };
      for (const [j, { folder, changes }] of names.entries()) if (digits[j]) applyNames(entriesOf(folder), changes);
      const fateOf = new Map(files.map(([file], j): [FileNode, Fate] => [file, fates[j]![digits[names.length + j]!]!]));
      const keys: string[] = [];
      const copy = (node: Node, path: string): Node => {
        if (node.kind === "file") {
          const fate = fateOf.get(node);
          const pending = disk.pendingData.get(node) ?? [];
          const bytes = fate ? contentAfter(disk.contentOf(node), pending, fate) : disk.contentOf(node);
          keys.push(`${path} ${node.id} ${bytes.length} ${fate ?? "synced"}`);
          return { kind: "file", id: node.id, bytes };
        }
        keys.push(`${path}/`);
        const children = [...entriesOf(node)].sort(([a], [b]) => (a < b ? -1 : 1));
        return {
          kind: "folder",
          id: node.id,
          entries: new Map(children.map(([name, child]) => [name, copy(child, `${path}/${name}`)])),
        };
      };
      const tree = copy(root, "") as FolderNode;
      yield { at, marked: disk.marked, fileSystem: new ModelFileSystem(tree), key: keys.join("\n") };
    }
  }
}
