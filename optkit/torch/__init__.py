"""What runs inside the user's PyTorch; needs the extra `optkit[torch]`."""

from optkit.torch.export import export

__all__ = ["export"]
