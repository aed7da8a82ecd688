/** A Parquet file by hand, with pages cut anywhere: a column of messages whose pages of version 1 begin inside of rows. Shares nothing with the reader. */

type Thrift =
  | readonly ["i32" | "i64", number]
  | readonly ["text", string]
  | readonly ["list", "i32" | "text" | "struct", readonly Thrift[]]
  | readonly ["struct", Readonly<Record<number, Thrift>>];

const TYPES = { i32: 5, i64: 6, text: 8, list: 9, struct: 12 } as const;

function varint(value: number): number[] {
  const bytes: number[] = [];
  for (let left = value; ; left = Math.floor(left / 128)) {
    if (left < 128) return [...bytes, left];
    bytes.push((left % 128) | 128);
  }
}

/** Thrift's compact protocol. */
function encode(value: Thrift): number[] {
  switch (value[0]) {
    case "i32":
    case "i64":
      return varint(2 * value[1]); // zigzag of what is not negative
    case "text": {
      const bytes = Buffer.from(value[1]);
      return [...varint(bytes.length), ...bytes];
    }
    case "list":
      return [(value[2].length << 4) | TYPES[value[1]], ...value[2].flatMap(encode)];
    case "struct": {
      let before = 0;
      const fields = Object.entries(value[1]).flatMap(([id, field]) => {
        const head = ((Number(id) - before) << 4) | TYPES[field[0]];
        before = Number(id);
        return [head, ...encode(field)];
      });
      return [...fields, 0];
    }
  }
}

const i32 = (value: number): Thrift => ["i32", value];
const i64 = (value: number): Thrift => ["i64", value];
const text = (value: string): Thrift => ["text", value];

/** Levels as runs of one, with their length before them. */
function levels(values: readonly number[]): Buffer {
  const runs = Buffer.from(values.flatMap((value) => [2, value]));
  const length = Buffer.alloc(4);
  length.writeUInt32LE(runs.length);
  return Buffer.concat([length, runs]);
}

export interface TestMessage {
  readonly role: string;
  readonly content: string;
}

/** A file of rows of messages (`repeated group messages { required role; required content }`), each of whose pages has `perPage` messages. */
export function messagesParquet(rows: readonly (readonly TestMessage[])[], perPage: number): Buffer {
  const parts: Buffer[] = [Buffer.from("PAR1")];
  let offset = 4;
  const columns = (["role", "content"] as const).map((name): Thrift => {
    const start = offset;
    const values = rows.flatMap((row) =>
      row.map((message, i) => ({ repetition: Number(i > 0), value: message[name] })),
    );
    for (let from = 0; from < values.length; from += perPage) {
      const some = values.slice(from, from + perPage);
      const plain = some.flatMap(({ value }) => {
        const bytes = Buffer.from(value);
        const length = Buffer.alloc(4);
        length.writeUInt32LE(bytes.length);
        return [length, bytes];
      });
      const body = Buffer.concat([levels(some.map(({ repetition }) => repetition)), levels(some.map(() => 1)), ...plain]); // prettier-ignore
      const page: Thrift = ["struct", { 1: i32(some.length), 2: i32(0), 3: i32(3), 4: i32(3) }];
      const header = Buffer.from(encode(["struct", { 1: i32(0), 2: i32(body.length), 3: i32(body.length), 5: page }]));
      parts.push(header, body);
      offset += header.length + body.length;
    }
    const size = offset - start;
    const meta = { 1: i32(6), 2: ["list", "i32", [i32(0)]], 3: ["list", "text", [text("messages"), text(name)]], 4: i32(0), 5: i64(values.length), 6: i64(size), 7: i64(size), 9: i64(start) } as const; // prettier-ignore
    return ["struct", { 2: i64(start), 3: ["struct", meta] }];
  });
  const leaf = (name: string): Thrift => ["struct", { 1: i32(6), 3: i32(0), 4: text(name), 6: i32(0) }];
  const schema = [
    ["struct", { 4: text("schema"), 5: i32(1) }],
    ["struct", { 3: i32(2), 4: text("messages"), 5: i32(2) }],
    leaf("role"),
    leaf("content"),
  ] as const;
  const group: Thrift = ["struct", { 1: ["list", "struct", columns], 2: i64(offset - 4), 3: i64(rows.length) }];
  const footer = Buffer.from(encode(["struct", { 1: i32(1), 2: ["list", "struct", schema], 3: i64(rows.length), 4: ["list", "struct", [group]] }])); // prettier-ignore
  const tail = Buffer.alloc(8);
  tail.writeUInt32LE(footer.length);
  tail.write("PAR1", 4, "latin1");
  return Buffer.concat([...parts, footer, tail]);
}
