"""Where nnU-Net finds our trainers: it imports this file by folder and looks the class up in it.

nnU-Net drops modules loaded this way from ``sys.modules`` again, so the classes are defined in the package and only
named here. Without the package (an environment that merely inherited ``nnUNet_extTrainer``) the file is empty.
"""

try:
    from nnunet_difflung import trainers as _trainers
except ModuleNotFoundError as _error:
    if _error.name != "nnunet_difflung":
        raise
else:
    globals().update({_name: getattr(_trainers, _name) for _name in _trainers.__all__})
