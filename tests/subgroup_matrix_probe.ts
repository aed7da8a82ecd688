/** The smallest program on subgroup matrices, in WGSL of its own: whether the driver's work at all. */
import { kernel, launch, loadKernels, tensor, empty } from "../index.ts";
import type { Device, SubgroupMatrixConfig } from "../index.ts";

/** Multiplies two matrices of ones of `config` (f16 with f32 sums); true if each sum is right. */
export async function bareProduct(device: Device, { M, N, K }: SubgroupMatrixConfig): Promise<boolean> {
  const most = device.capabilities.subgroups![1];
  const product = kernel(
    "bare_product",
    `enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
@group(0) @binding(0) var<storage, read> x: array<vec2u>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(${most})
fn bare_product() {
  let left = subgroupMatrixLoad<subgroup_matrix_left<f16, ${K}, ${M}>, row_major>(&x, 0u, ${K / 4}u);
  let right = subgroupMatrixLoad<subgroup_matrix_right<f16, ${N}, ${K}>, row_major>(&x, 0u, ${N / 4}u);
  let sums = subgroupMatrixMultiply<f32>(left, right);
  subgroupMatrixStore<row_major>(&y, 0u, sums, ${N}u);
}`,
    { x: "read", y: "write" },
  );
  await loadKernels();
  using x = tensor(new Float64Array(Math.max(M, N) * K).fill(1), { shape: [Math.max(M, N) * K], dtype: "f16", device });
  using y = empty([M * N], { device });
  launch(product, { buffers: { x, y }, grid: [1, 1, 1], cost: { flops: 2 * M * N * K, bytes: 0 } });
  return (await y.data()).every((sum) => sum === K);
}
