/**
 * A socket in the folder of a lock. The kernel refuses connections to a socket whose process is gone, whichever PID namespace asks, so a restarted
 * container knows at once that its lock is stale. That holds within one kernel and one mount: the socket must have the device and inode that
 * its holder saw. A holder that is blocked or stopped still counts as alive: the kernel accepts connections for it.
 */
import { closeSync, constants, openSync } from "node:fs";
import { stat } from "node:fs/promises";
import { connect, createServer } from "node:net";
import type { Server } from "node:net";
import { join } from "node:path";

const SOCKET = "alive";

/** The socket's path through an open folder: the path itself may be longer than the 107 bytes that a socket's address has. */
const addressIn = (folder: number): string => `/proc/self/fd/${folder}/${SOCKET}`;

/** Device and inode of the socket in a lock's folder; null if there is none. */
async function idIn(folder: string): Promise<string | null> {
  const stats = await stat(join(folder, SOCKET), { bigint: true }).catch(() => null);
  return stats?.isSocket() ? `${stats.dev}:${stats.ino}` : null;
}

export class LockSocket {
  /** For the holder's file. */
  readonly id: string;
  private readonly server: Server;
  private readonly folder: number;

  private constructor(id: string, server: Server, folder: number) {
    this.id = id;
    this.server = server;
    this.folder = folder;
  }

  /** Null on other systems than Linux, and on file systems without sockets. */
  static async open(path: string): Promise<LockSocket | null> {
    if (process.platform !== "linux") return null;
    const folder = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
    const server = createServer((connection) => connection.destroy());
    server.unref();
    const isOpen = await new Promise<boolean>((resolve) => {
      server.once("error", () => resolve(false));
      server.listen(addressIn(folder), () => resolve(true));
    });
    const id = isOpen ? await idIn(path) : null;
    if (id !== null) return new LockSocket(id, server, folder);
    server.close();
    closeSync(folder);
    return null;
  }

  /** Removes the socket too, if its folder is still there. */
  async close(): Promise<void> {
    await new Promise((resolve) => this.server.close(resolve));
    closeSync(this.folder); // last: the server removes the socket by this folder's number
  }
}

/** Whether the process that opened the socket of a lock still has it; null if that cannot be known from here. */
export async function hasListener(lock: string, id: string): Promise<boolean | null> {
  if ((await idIn(lock)) !== id) return null;
  const folder = openSync(lock, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    return await new Promise((resolve) => {
      const connection = connect(addressIn(folder), () => {
        connection.destroy();
        resolve(true);
      });
      connection.once("error", (error) => resolve("code" in error && error.code === "ECONNREFUSED" ? false : null));
    });
  } finally {
    closeSync(folder);
  }
}
