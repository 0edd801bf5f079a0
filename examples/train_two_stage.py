"""VideoScan's training (arXiv 2503.09387) for any supported family: a model learns to answer from a token a frame.

Stage 1: LoRA on vision tower and language model; of each frame the model sees its carrier alone, the mean of its
tokens. Stage 2: the language model alone learns, by LoRA or, with --full, all of it; carriers stand behind the kept
tokens of their frames, under the semantic-aware mask. Both are laid out as a session in "carriers" mode reads them.

    python3 examples/train_two_stage.py --out run                # the package's small model, generated clips, a CPU
    python3 examples/train_two_stage.py --out run --model Qwen/Qwen2.5-VL-3B-Instruct --data train.jsonl --bf16 \\
        --checkpoint-activations --prune-augment threshold:0.2,0.9 --merge

A line of the data: {"video": "clip.mp4", "question": "What moves?", "answer": "A box.", "at": 12.5}. Frames up to
second "at" are seen, all without it. Killed, the same command with --resume goes on. In DIR/stage1 and DIR/stage2:
checkpoints, the log, the adapter; in DIR/merged: the whole model, for sp.models.load; without --model it is one file,
merged/model.safetensors, for streamprune_triton.shapes.model.load. Needs: pip install peft accelerate av
"""

import os
import sys
from argparse import Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint

import streamprune_triton as sp
from streamprune_triton import cli, training
from streamprune_triton.cli.options import count, device_name, number, prune_config
from streamprune_triton.shapes import model as small


class AnswerTrainer(Trainer):
    """Evaluates what share of the answers greedy decoding would give. Its model is a training.Learner."""

    def prediction_step(self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None) -> Any:
        with torch.no_grad():
            told = model(**inputs)
        return told["loss"], told["right"], told["right"]


def collate(samples: list[training.Sample]) -> dict[str, Any]:
    return {"samples": samples}


def trainer(learner: training.Learner, data: tuple[Any, Any], out: Path, steps: int, options: Namespace) -> Trainer:
    """Each sample is a forward of its own; a batch is gathered by gradient accumulation."""
    settings = TrainingArguments(
        str(out),
        max_steps=steps,
        learning_rate=options.lr,
        per_device_train_batch_size=1,
        per_device_eval_batch_size=1,
        gradient_accumulation_steps=options.batch,
        lr_scheduler_type="cosine",
        warmup_steps=steps // 30,
        logging_steps=options.log_every,
        eval_strategy="steps" if options.eval_every else "no",
        eval_steps=options.eval_every,
        save_steps=options.save_every,
        save_total_limit=2,
        bf16=options.bf16,
        use_cpu=options.device == "cpu",
        seed=options.seed,
        dataloader_num_workers=options.workers,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
    )
    if settings.n_gpu > 1:
        raise ValueError(f"one process trains on one GPU, got {settings.n_gpu}: use torchrun or CUDA_VISIBLE_DEVICES")
    metrics = {"compute_metrics": lambda found: {"exact_match": float(found.predictions.mean())}}
    return AnswerTrainer(learner, settings, collate, train_dataset=data[0], eval_dataset=data[1], **metrics)


def run_stage(number: int, model: Any, processor: Any, data: tuple[Any, Any], options: Namespace) -> Any:
    """The model behind a stage: trained, or as an earlier run left it."""
    full, out = options.full and number == 2, Path(options.out) / f"stage{number}"
    model = training.merged(model) if full else model
    config, augment = (options.config, options.prune_augment) if number == 2 else (options.carriers_only, None)
    learner, done = training.Learner(model, processor, config, augment=augment), out / "done" / "model.safetensors"
    learner.learn(tower=number == 1)
    if options.bf16:
        training.hold_in_bf16(model)
    if options.resume and done.is_file():
        learner.load_state_dict(load_file(done, device=str(model.device)))
        return model
    runner = trainer(learner, data, out, options.steps[number - 1], options)
    runner.train(resume_from_checkpoint=get_last_checkpoint(out) if options.resume and out.is_dir() else None)
    if runner.is_world_process_zero():
        runner.save_model(str(done.parent))
        if not full:
            model.save_pretrained(out / "adapter", save_embedding_layers=False)
    return model


def report(when: str, model: Any, processor: Any, evaluate: Any, options: Namespace) -> None:
    shares = []
    for config in (options.carriers_only, options.config):
        with torch.autocast(model.device.type, torch.bfloat16, enabled=options.bf16):
            shares.append(100 * training.Learner(model, processor, config).accuracy(evaluate))
    if options.first:
        columns = zip(shares, ("carriers only", "carriers behind kept tokens"), strict=True)
        print(f"{when + ':':<15}" + ", ".join(f"{share:5.1f} % {name}" for share, name in columns), flush=True)


def train(options: Namespace) -> None:
    """Both stages; prints exact-match accuracies on the evaluation samples before and behind each."""
    if options.data:
        source = training.Videos(options.data, options.fps)
        data = (source, training.Videos(options.eval, options.fps)) if options.eval else source.split()
    else:
        data = training.Shapes(100_000, seed=options.seed), training.Shapes(options.questions, seed=2**31)
    kind = None if options.bf16 else torch.float32
    model, processor = sp.models.load(options.model, dtype=kind) if options.model else small.load(small.PLAIN)
    set_seed(options.seed)
    model = training.add_lora(model.to(options.device), options.rank, options.alpha)
    if options.checkpoint_activations:
        training.checkpoint_activations(model)
    report("before", model, processor, data[1], options)
    for n in (1, 2):
        model = run_stage(n, model, processor, data, options)
        report(f"after stage {n}", model, processor, data[1], options)
    if (options.merge or options.full) and options.first:
        folder, model = Path(options.out) / "merged", training.merged(model)
        model = model.bfloat16() if options.bf16 else model
        if options.model:
            training.save(model, processor, folder, options.model)
        else:
            folder.mkdir(exist_ok=True)
            small.save(model, folder / "model.safetensors")


def arguments(argv: Sequence[str] | None) -> Namespace:
    parser = cli.Parser(prog="train_two_stage.py", description=__doc__, formatter_class=RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--out", required=True, metavar="DIR", help="where everything is written")
    add("--model", help="a checkpoint, path or hub name (the package's small model)")
    add("--data", metavar="FILE", help="JSONL to train with; needs --model (generated clips)")
    add("--eval", metavar="FILE", help="JSONL to evaluate with (each tenth video of --data)")
    add("--questions", type=count, default=200, metavar="N", help="to evaluate with, generated (200)")
    add("--fps", type=number, default=1.0, help="frames a second to look at, of --data (1)")
    add("--steps", type=count, nargs=2, metavar="N", help="of each stage (2000 2000; small: 150 150)")
    add("--batch", type=count, default=8, help="samples a step, by gradient accumulation (8)")
    add("--lr", type=number, help="highest learning rate (1e-5; small: 1e-3)")
    add("--rank", type=count, default=64, help="of LoRA (64)")
    add("--alpha", type=count, default=16, help="of LoRA (16)")
    add("--full", action="store_true", help="stage 2: all of the language model's weights, no LoRA")
    add("--config", metavar="KEY=VALUE,...", help="what stage 2 drops: fields of PruneConfig, or JSON")
    add("--prune-augment", metavar="threshold|budget:LOW,HIGH", help="what stage 2 drops is drawn for each sample")
    add("--bf16", action="store_true", help="autocast; frozen weights in bfloat16 (all in float32)")
    add("--checkpoint-activations", action="store_true", help="compute them twice, hold them once")
    add("--merge", action="store_true", help="write the whole model, too; implied by --full")
    add("--resume", action="store_true", help="go on from what is in DIR")
    add("--save-every", type=count, default=100, metavar="STEPS", help="checkpoints (100)")
    add("--eval-every", type=count, metavar="STEPS", help="loss and accuracy on the way (not at all)")
    add("--log-every", type=count, default=25, metavar="STEPS", help="of the loss (25)")
    add("--workers", type=int, default=0, help="processes that decode (0)")
    add("--seed", type=int, default=0)
    add("--device", choices=("cpu", "cuda"), help="(a GPU where there is one)")
    options = parser.parse_args(argv)
    if (options.data and not options.model) or (options.eval and not options.data):
        raise ValueError("--data needs --model, and --eval needs --data")
    if any(Path(options.out).glob("stage*")) and not options.resume:
        raise ValueError(f"--out: {options.out} holds an earlier run: give --resume, or another folder")
    threshold = sp.PruneConfig() if options.model else sp.PruneConfig(temporal_threshold=0.8, spatial_threshold=0.8)
    options.config = prune_config(options.config, threshold)
    options.carriers_only = training.carriers_only(options.config)
    options.prune_augment = training.Drawn.parse(options.prune_augment) if options.prune_augment else None
    options.steps = options.steps or ((2000, 2000) if options.model else (150, 150))
    options.lr = options.lr or (1e-5 if options.model else 1e-3)
    options.device = device_name(options.device)
    if options.device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    options.first = not int(os.environ.get("RANK", "0"))
    return options


def main(argv: Sequence[str] | None = None) -> int:
    try:
        train(arguments(argv))
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError, ImportError) as error:
        print(f"train_two_stage.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
