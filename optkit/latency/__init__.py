"""Which layers are worth their integers: precisions chosen by time, over the whole graph."""

from optkit.latency.search import OBJECTIVES, check_search, search_precisions

__all__ = ["OBJECTIVES", "check_search", "search_precisions"]
