"""The genetic algorithm as an evosax algorithm; its fitness; the search over all groups."""

from jaxprune.search.bound import lower_bounds
from jaxprune.search.fitness import block_diagonal, layer_error
from jaxprune.search.greedy import diagonal_ranking, greedy_elimination
from jaxprune.search.refit import Regression, refit_error
from jaxprune.search.run import SearchConfig, SearchResult, search_groups
from jaxprune.search.swaps import swap_descent, tabu_search

__all__ = [
    "Regression",
    "SearchConfig",
    "SearchResult",
    "block_diagonal",
    "diagonal_ranking",
    "greedy_elimination",
    "layer_error",
    "lower_bounds",
    "refit_error",
    "search_groups",
    "swap_descent",
    "tabu_search",
]
