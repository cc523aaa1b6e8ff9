"""The public names: what an editor completes, and where each is loaded from on first use."""

from offbeat.checkpoints.models import fetch_model as fetch_model
from offbeat.checkpoints.models import inspect_model as inspect_model
from offbeat.checkpoints.models import list_models as list_models
from offbeat.checkpoints.open import load_backbone as load_backbone
from offbeat.checkpoints.placement import Placement as Placement
from offbeat.errors import OffbeatError as OffbeatError
from offbeat.methods.low_probability.config import LowProbabilityConfig as LowProbabilityConfig
from offbeat.runs.result import Run as Run
from offbeat.runs.result import load_run as load_run
from offbeat.scale.archive import archive as archive
from offbeat.scale.sweep import run_plan as run_plan
from offbeat.types import Concept as Concept
from offbeat.types import Request as Request
from offbeat.types import Trained as Trained
from offbeat.verbs.again import again as again
from offbeat.verbs.doctor import doctor as doctor
from offbeat.verbs.dream import dream as dream
from offbeat.verbs.explore import explore as explore
from offbeat.verbs.export import export_concept as export_concept
from offbeat.verbs.export import import_concept as import_concept
from offbeat.verbs.fuse import fuse as fuse
from offbeat.verbs.fuse import grid as grid
from offbeat.verbs.fuse import sweep as sweep
from offbeat.verbs.generate import generate as generate
from offbeat.verbs.paint import paint as paint
from offbeat.verbs.render import render as render
from offbeat.verbs.score import score as score
from offbeat.verbs.train import train as train

__version__: str
__all__: list[str]
