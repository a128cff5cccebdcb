#!/usr/bin/env bash
# Success rate against level on real speech. Usage, from the repository's root:
#   experiments/results/fronts/run.sh DATA_DIR OUT_DIR
# DATA_DIR is the folder of the 12-class Speech Commands test set. The victim is that of
# real_speech/run.sh; a run that is done is not done again.
set -euo pipefail
data_dir=$1
out_dir=$2

attack() {
    local method=$1 name=$2
    shift 2
    python -m uap_jax.experiments.run --method="$method" --model=spchcmd --scaling=peak \
        --dataset=speech_commands --data_dir="$data_dir" --workdir="$out_dir/$name" "$@"
    mkdir -p "experiments/results/fronts/$name"
    cp "$out_dir/$name"/{config.json,result.json,metrics.jsonl} \
        "experiments/results/fronts/$name/"
}

levels=0.45,0.5,0.6,0.7,0.8,0.85,0.9,0.95,0.97
for goal in untargeted down left; do
    target=()
    if [ "$goal" != untargeted ]; then target=(--target="$goal"); fi
    attack decoupled "decoupled-$goal" "${target[@]}" --asr_levels="$levels"
    for asr in 0.6 0.8 0.9 0.95; do
        attack penalty "penalty-$goal-$asr" "${target[@]}" --set "target_asr=$asr"
        attack greedy "greedy-$goal-$asr" "${target[@]}" --set "attack.target_asr=$asr"
    done
    results=experiments/results
    folders() { printf "$results/fronts/$1-$goal-%s," 0.6 0.8 0.9 0.95; }
    python $results/fronts.py "$results/fronts/$goal.svg" "SpchCMD on real speech, $goal" \
        "decoupled=$results/fronts/decoupled-$goal" \
        "penalty=$(folders penalty)$results/quietest/sweep/points.jsonl:$goal" \
        "greedy=$(folders greedy)$results/quietest/sweep/points.jsonl:$goal"
done
