#!/usr/bin/env bash
# Train on several GPU nodes with Slurm: sbatch examples/slurm.sh qwen3_4b_asym [key.sub=value ...]
# The repository, its .venv, runs/ and the model must be on a file system that all nodes share.
#SBATCH --job-name=asymrl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@600
#SBATCH --output=slurm-%j.log
set -euo pipefail

config=${1:?usage: sbatch examples/slurm.sh CONFIG [key.sub=value ...]}
# time that torchrun gives a step, an evaluation and a save to finish after the signal, in seconds
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=540
first_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# One launcher a node; it starts a process a GPU. Slurm's SIGTERM, ten minutes before the time limit,
# saves the last finished step; submitting the same job again resumes the run.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" .venv/bin/torchrun \
    --nnodes "$SLURM_NNODES" --nproc-per-node gpu \
    --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$first_node:29511" \
    train.py --config "$config" "${@:2}"
