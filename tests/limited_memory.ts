/** A GPU device whose memory seems to end at a limit: larger requests fail as WebGPU says, later and in their error scope. */

export interface LimitedMemory {
  /** Bytes of the buffers that exist. */
  readonly usedBytes: number;
  /** Requests that failed. */
  readonly refused: number;
  limitBytes: number;
}

/** Puts a limit on `gpu`. Failed buffers are invalid ones: whatever uses them is refused by the real device. */
export function limitMemory(gpu: GPUDevice, limitBytes: number): LimitedMemory {
  const state = { usedBytes: 0, refused: 0, limitBytes };
  /** One entry a scope that is open: the error that it has caught. */
  const scopes: { filter: GPUErrorFilter; error: GPUError | null }[] = [];
  const real = {
    createBuffer: gpu.createBuffer.bind(gpu),
    push: gpu.pushErrorScope.bind(gpu),
    pop: gpu.popErrorScope.bind(gpu),
  };
  gpu.pushErrorScope = (filter) => {
    scopes.push({ filter, error: null });
    return real.push(filter);
  };
  gpu.popErrorScope = async () => {
    const scope = scopes.pop()!;
    return (await real.pop()) ?? scope.error;
  };
  const invalid = (): GPUBuffer => {
    real.push("validation");
    const buffer = real.createBuffer({ size: 4, usage: 0 });
    void real.pop();
    return buffer;
  };
  gpu.createBuffer = (descriptor) => {
    if (state.usedBytes + descriptor.size > state.limitBytes) {
      state.refused++;
      const scope = scopes.findLast(({ filter }) => filter === "out-of-memory");
      if (!scope) throw new Error("a buffer was created outside an out-of-memory scope");
      scope.error ??= { message: "not enough memory" } as GPUError;
      return invalid();
    }
    state.usedBytes += descriptor.size;
    const buffer = real.createBuffer(descriptor);
    const destroy = buffer.destroy.bind(buffer);
    let isDestroyed = false;
    buffer.destroy = () => {
      if (!isDestroyed) state.usedBytes -= descriptor.size;
      isDestroyed = true;
      return destroy();
    };
    return buffer;
  };
  return state;
}
