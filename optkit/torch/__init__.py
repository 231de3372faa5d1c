"""What runs inside the user's PyTorch; needs the extra `optkit[torch]`."""

from optkit.torch.exporter import export

__all__ = ["export"]
