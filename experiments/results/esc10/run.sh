#!/usr/bin/env bash
# The recorded runs on ESC-10. Usage, from the repository's root:
#   experiments/results/esc10/run.sh DATA_DIR OUT_DIR [MODEL ...]
# DATA_DIR is the folder of ESC-10. Each model is trained once, by the first run that
# needs it; a run that is done is not done again.
set -euo pipefail
data_dir=$1
out_dir=$2
shift 2

attack() {
    local model=$1 method=$2 goal=$3
    shift 3
    local name="$model-$method-$goal"
    if [ "$goal" != untargeted ]; then set -- --target="$goal" "$@"; fi
    python -m uap_jax.experiments.run --method="$method" --model="$model" --seed=1 \
        --dataset=esc10 --data_dir="$data_dir" --workdir="$out_dir/$name" "$@"
    mkdir -p "experiments/results/esc10/$name"
    cp "$out_dir/$name"/{config.json,result.json,metrics.jsonl} \
        "experiments/results/esc10/$name/"
}

goals=(untargeted dog_bark rain chainsaw)
if [ $# -eq 0 ]; then set -- cnn_rand cnn_gamma envnet_v2 sincnet sincnet_vgg19; fi
for model in "$@"; do
    # What two cores can do. All but the smallest get fewer passes, a larger learning
    # rate for it, and greedy a shorter DDN; config.json of each run says so.
    short_ddn=(--set ddn.num_steps=20 --set attack.max_passes=1)
    case $model in
        cnn_rand) penalty=() greedy=() ;;
        cnn_gamma)
            penalty=(--set learning_rate=0.015 --set attack.max_passes=12)
            greedy=("${short_ddn[@]}") ;;
        envnet_v2 | sincnet)
            penalty=(--set learning_rate=0.015 --set attack.max_passes=12)
            # A first norm of 0.2 left DDN without a result for a third of the clips of
            # cnn_gamma: 20 steps are too few to get far from it.
            greedy=(--num_attack_clips=60 "${short_ddn[@]}" --set ddn.init_norm=1) ;;
        sincnet_vgg19)
            # Trained for twice as long as the recipe has it.
            longer=(--set training.num_clips_seen=1200)
            penalty=("${longer[@]}" --num_attack_clips=100 --set learning_rate=0.015
                     --set attack.batch_size=5 --set attack.max_passes=1)
            greedy=("${longer[@]}" --num_attack_clips=20 "${short_ddn[@]}"
                    --set ddn.init_norm=1) ;;
    esac
    for goal in "${goals[@]}"; do
        attack "$model" penalty "$goal" "${penalty[@]}"
    done
    for goal in "${goals[@]}"; do
        attack "$model" greedy "$goal" "${greedy[@]}"
    done
done
