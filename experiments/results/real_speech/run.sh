#!/usr/bin/env bash
# The recorded runs on real speech. Usage, from the repository's root:
#   experiments/results/real_speech/run.sh DATA_DIR OUT_DIR
# DATA_DIR is the folder of the 12-class Speech Commands test set. Each model is trained
# once, by the first run that needs it; a run that is done is not done again.
set -euo pipefail
data_dir=$1
out_dir=$2

attack() {
    local name=$1
    shift
    python -m uap_jax.experiments.run --method=penalty --model=spchcmd \
        --dataset=speech_commands --data_dir="$data_dir" --workdir="$out_dir/$name" "$@"
    mkdir -p "experiments/results/real_speech/$name"
    cp "$out_dir/$name"/{config.json,result.json,metrics.jsonl} \
        "experiments/results/real_speech/$name/"
}

for target in down left _silence_ _unknown_ go no off on right stop up yes; do
    attack "peak-$target" --scaling=peak --target="$target"
done
attack peak-untargeted --scaling=peak
attack fixed-down --scaling=fixed --target=down
attack fixed-untargeted --scaling=fixed
attack paper-down --preset=paper --target=down
attack paper-untargeted --preset=paper
