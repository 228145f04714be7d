# Made by `python -m tests.stubs`.
from vizkit.compounds import Segmentation as Segmentation
from vizkit.compounds import Sheet as Sheet
from vizkit.errors import VizkitError as VizkitError
from vizkit.evaluation.checking import check_method as check_method
from vizkit.evaluation.judging import evaluate as evaluate
from vizkit.folders import walk_images as walk_images
from vizkit.hooks import capture as capture
from vizkit.hooks import relu_rule as relu_rule
from vizkit.images import load_image as load_image
from vizkit.images import read_image as read_image
from vizkit.layernames import list_layers as list_layers
from vizkit.methods.compare import compare as compare
from vizkit.methods.deconvnet import deconvnet as deconvnet
from vizkit.methods.grad_cam import grad_cam as grad_cam
from vizkit.methods.guided_backprop import guided_backprop as guided_backprop
from vizkit.methods.guided_grad_cam import guided_grad_cam as guided_grad_cam
from vizkit.methods.integrated_gradients import integrated_gradients as integrated_gradients
from vizkit.methods.occlusion import occlusion as occlusion
from vizkit.methods.rise import rise as rise
from vizkit.methods.saliency import saliency as saliency
from vizkit.methods.sanity_check import sanity_check as sanity_check
from vizkit.methods.segment import segment as segment
from vizkit.pictures import Pictures as Pictures
from vizkit.results import Heatmap as Heatmap
from vizkit.scanning.index import Index as Index
from vizkit.scanning.scanner import merge_index as merge_index
from vizkit.scanning.scanner import scan as scan
from vizkit.sessions import session as session
from vizkit.tables import Table as Table
from vizkit.targetspecs import region as region
from vizkit.zoo import VisionModel as VisionModel
from vizkit.zoo import load_model as load_model
from vizkit.zoo import wrap as wrap

__version__: str
_HOMES: dict[str, str]
