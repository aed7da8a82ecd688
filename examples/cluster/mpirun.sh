#!/bin/bash
# Two machines that reach each other by ssh, listed in a host file: one line each, `HOST slots=8`.
set -euo pipefail

HOSTS=${HOSTS:-hosts}
MODEL=${MODEL:-deepseek-ai/Janus-Pro-1B}
DATA=${DATA:-$HOME/data}
RUN=${RUN:-$HOME/runs/stage2}

# SIGTERM to mpirun ends the ranks a second later. SIGUSR1 it passes on: they finish their step, save, and end.
mpirun --hostfile "$HOSTS" ${MPIRUN_OPTIONS:-} \
  npx janus train stage2 \
  --model "$MODEL" --run "$RUN" --cache "$RUN/cache" \
  --data "$DATA/und.jsonl" "gen=$DATA/gen.jsonl" "$DATA/text.jsonl" "$@" &
trap 'kill -USR1 $!' TERM INT
wait $! || wait $!
