"""Mixed precision that keeps the accuracy: the fastest assignment of precisions within a drop of the user's metric."""

from optkit.mixed.picture import write_picture
from optkit.mixed.request import MixedRequest, make_request
from optkit.mixed.search import confirm, search_mixed

__all__ = ["MixedRequest", "confirm", "make_request", "search_mixed", "write_picture"]
