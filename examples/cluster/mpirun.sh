#!/bin/bash
# Two machines that reach each other by ssh, listed in a host file: one line each, `HOST slots=8`.
set -euo pipefail

HOSTS=${HOSTS:-hosts}
MODEL=${MODEL:-deepseek-ai/Janus-Pro-1B}
DATA=${DATA:-$HOME/data}
RUN=${RUN:-$HOME/runs/stage2}

# odls_base_sigkill_timeout: seconds between SIGTERM and SIGKILL. The run needs them to finish its step and save.
exec mpirun --hostfile "$HOSTS" --mca odls_base_sigkill_timeout 600 ${MPIRUN_OPTIONS:-} \
  npx janus train stage2 \
  --model "$MODEL" --run "$RUN" --cache "$RUN/cache" \
  --data "$DATA/und.jsonl" "gen=$DATA/gen.jsonl" "$DATA/text.jsonl" "$@"
