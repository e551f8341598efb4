"""All of Ray, and DeepSpeed in one file: clusters, training workers, breadth actors, search.

Ray reads its environment when it is imported: the settings come before any module of this package.
"""

from eqr_ray.distributed import environment as environment
