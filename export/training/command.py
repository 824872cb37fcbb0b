"""`python -m export train`: from a settings file and pictures to a run folder."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from dataclasses import replace
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import torch
from torch import Tensor
from torch.multiprocessing import get_context
from torch.multiprocessing.spawn import ProcessExitedException, spawn

from export.training.config import TrainingSettings
from export.training.families import make_family
from export.training.finer import refine_step
from export.training.group import Group
from export.training.loop import FamilyTraining, Run
from export.training.pictures import load_pictures, split_held_out
from export.weights import load_weights
from runtime.errors import CutoffError, PictureError, UsageError
from runtime.settings import load_settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("config", type=Path, help="settings of the model, e.g. configs/dpict-edge.toml")
    parser.add_argument("--pictures", type=Path, nargs="+", required=True, help="folders, tar files or pictures")
    parser.add_argument("--run", type=Path, help="folder of checkpoints (default: runs/NAME); resumed if there")
    parser.add_argument("--start", type=Path, help="weights file to start a new run from (see: export weights)")
    parser.add_argument("--finer", type=float, metavar="FACTOR", help="divide the quantisation step of --start by this")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads per process")
    parser.add_argument(
        "--precision",
        choices=["bfloat16", "float32"],
        default="bfloat16",
        help="arithmetic of the networks; float32 is ten times faster on a processor without AVX-512 (edge backbone)",
    )
    parser.add_argument("--batch", type=int, help="patches a step of each process (default: as the settings say)")
    parser.add_argument(
        "--compile",
        action=argparse.BooleanOptionalAction,
        help="compile the networks with torch.compile before the first step (default: on a GPU)",
    )
    parser.add_argument("--processes", type=int, default=1, help="processes that average their gradients")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="save and stop after this time")
    parser.add_argument("--save-minutes", type=float, default=4.0, help="time between checkpoints")


def run(arguments: argparse.Namespace) -> None:
    """Train, in as many processes as asked for."""
    settings = settings_of(arguments)
    family = make_family(settings)  # a wrong setting ends here, before any process starts
    if arguments.finer is not None:
        if arguments.start is None:
            raise UsageError("--finer changes the weights of --start, which is missing")
        refine_step(family.networks, family.step_roles, arguments.finer)
    if arguments.processes < 1 or arguments.threads < 1:
        raise UsageError("--processes and --threads must be at least 1")
    if arguments.processes > 1 and torch.device(arguments.device).type != "cpu":
        raise UsageError("--processes share cores, not a GPU: take one, with a larger --batch, or --device cpu")
    if arguments.processes == 1:
        _train(0, 1, "", settings, arguments)
        return
    faults: SimpleQueue[CutoffError] = get_context("spawn").SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        processes = spawn(  # type: ignore[no-untyped-call]
            _train_one,
            (arguments.processes, f"{folder}/rendezvous", settings, arguments, faults),
            nprocs=arguments.processes,
            join=False,
        )

        def pass_on(*_: object) -> None:
            """The processes save and stop; this one waits for them."""
            for process in processes.processes:
                process.terminate()

        signal.signal(signal.SIGTERM, pass_on)
        signal.signal(signal.SIGINT, pass_on)
        try:
            while not processes.join():
                pass
        except ProcessExitedException as fault:
            if not faults.empty():
                raise faults.get() from None
            if fault.signal_name == "SIGTERM":  # before a run was there to be saved
                raise CutoffError("stopped before the first step") from None
            raise


def settings_of(arguments: argparse.Namespace) -> TrainingSettings:
    """Return the settings of the file, with what the command says in its place.

    Raises:
        UsageError, ConfigurationError: either is wrong.
    """
    settings = load_settings(TrainingSettings, arguments.config)
    if arguments.batch is None:
        return settings
    stages = {name: replace(stage, batch=arguments.batch) for name, stage in settings.stages.items()}
    return replace(settings, stages=stages)


def start_from(family: FamilyTraining, file: Path, pictures: list[Tensor]) -> list[str]:
    """Give the family's networks the weights of *file*, as far as they have a place for them.

    Returns:
        The roles of networks, or parts of one, for which it has none.

    Raises:
        UsageError: the file cannot be read, or its networks have other shapes.
    """
    try:
        weights = family.adopt(load_weights(file)[0], family.networks, pictures)
        missing = family.networks.load_state_dict(weights, strict=False).missing_keys
        return sorted({name.partition(".")[0] for name in missing})
    except KeyError as fault:
        raise UsageError(f"{file} is no start for these networks: it has no {fault}") from fault
    except RuntimeError as fault:
        raise UsageError(f"{file} is no start for these networks: {str(fault).splitlines()[-1].strip()}") from fault


def _train_one(
    rank: int,
    size: int,
    rendezvous: str,
    settings: TrainingSettings,
    arguments: argparse.Namespace,
    faults: SimpleQueue[CutoffError],
) -> None:
    """Train in one of several processes; what is the user's fault goes to the process that can say so."""
    try:
        _train(rank, size, rendezvous, settings, arguments)
    except CutoffError as fault:
        faults.put(fault)
        sys.exit(fault.exit_status)


def _train(rank: int, size: int, rendezvous: str, settings: TrainingSettings, arguments: argparse.Namespace) -> None:
    torch.set_num_threads(arguments.threads)
    torch.set_autocast_dtype(torch.device(arguments.device).type, getattr(torch, arguments.precision))
    torch.manual_seed(settings.seed)  # the same initial weights in every process
    group = Group(rank, size, rendezvous)
    family = make_family(settings)
    pictures = load_pictures(arguments.pictures, settings.patch)
    held_out, kept = split_held_out(pictures, settings.held_out)
    if not kept:
        raise PictureError(f"{len(pictures)} pictures, of which held_out takes {settings.held_out}: none is left")
    if arguments.start is not None:
        made = start_from(family, arguments.start, kept)
        if made and group.leads:
            print(f"{arguments.start} has no {', '.join(made)}: begun as made", file=sys.stderr)
        if arguments.finer is not None:
            refine_step(family.networks, family.step_roles, arguments.finer)
    device = torch.device(arguments.device)
    if device.type == "cuda":
        kept = [p.to(device) for p in kept]
    folder = arguments.run or Path("runs") / settings.name
    run = Run(
        settings,
        family.networks,
        family.stages,
        folder,
        device,
        group,
        save_every_s=60 * arguments.save_minutes,
        stop_after_s=60 * arguments.minutes,
        compiled=device.type == "cuda" if arguments.compile is None else arguments.compile,
    )

    def stop(*_: object) -> None:
        run.stop = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    run.train(kept, family.validation(held_out, device))
    group.close()
