/**
 * A setup file of the suite under `JANUS_TEST_AS_GPU=1`: devices choose kernels, and how far a decoding loop runs ahead, as GPUs do. What
 * protects software Vulkan (its byte budget, how reads wait) is decided while a device is made, and stays.
 */
import { Device } from "../index.ts";

const create = Device.create.bind(Device);
Device.create = async (options) => {
  const device = await create(options);
  if (device.gpu) Object.defineProperty(device, "capabilities", { value: { ...device.capabilities, software: false } });
  return device;
};
