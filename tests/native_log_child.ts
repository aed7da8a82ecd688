/** A program that opens a device, with standard streams that must stay empty. Run by tests/tier1/native_log.test.ts. */
import { Device, listAdapters } from "../index.ts";

await listAdapters();
const device = await Device.create();
device.destroy();
process.exit(0);
