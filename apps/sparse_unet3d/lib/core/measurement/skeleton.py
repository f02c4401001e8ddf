"""The length of tubes along their skeleton."""

from collections.abc import Iterator

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter1d
from scipy.spatial import cKDTree
from skimage.morphology import skeletonize

from lib.core.volumes.volume import Affine, spacing_of

SMOOTHING = 2.0
"""Standard deviation, in voxels along a branch, of the smoothing that removes a branch's steps between voxels."""

_Branch = list[int]
"""Skeleton voxels in their order along a branch. In a ring, the first one is also the last one."""


def skeleton_length(mask: NDArray[np.bool_], affine: Affine) -> float:
    """Return the length of all branches of a set of voxels along its skeleton, in mm.

    The skeleton is that of Lee's thinning. It ends within the tips of a tube, up to a radius from them. Side branches
    that don't leave the tube are left out: those at most as long as the tube is thick where they begin.

    Args:
        mask: (X, Y, Z) with at least one voxel.
        affine: (4, 4) voxel to RAS mm.
    """
    padded = np.pad(mask, 1)
    voxels = np.argwhere(skeletonize(padded))
    places = voxels @ affine[:3, :3].T
    radii = distance_transform_edt(padded, sampling=spacing_of(affine))[tuple(voxels.T)]
    graph = _graph_of(voxels)
    for branch in list(_branches(graph)):
        ends = sorted((branch[0], branch[-1]), key=graph.degree)
        if graph.degree(ends[0]) == 1 and graph.degree(ends[1]) > 2 and _length(places, branch) <= radii[ends[1]]:
            graph.remove_nodes_from(node for node in branch if node != ends[1])
    return sum(_length(places, branch) for branch in _branches(graph))


def _graph_of(voxels: NDArray[np.int64]) -> nx.Graph:
    """Return the graph of neighbouring voxels, without the diagonals that shorter steps go round."""
    pairs = cKDTree(voxels).query_pairs(1.8, output_type="ndarray")
    # 1, 2 or 3: neighbours by a face, an edge or a corner.
    apart = ((voxels[pairs[:, 0]] - voxels[pairs[:, 1]]) ** 2).sum(axis=1)
    graph: nx.Graph = nx.Graph()
    graph.add_nodes_from(range(len(voxels)))
    for nearest in (1, 2, 3):
        of_kind = pairs[apart == nearest]
        graph.add_edges_from(
            [(int(a), int(b)) for a, b in of_kind if not any(True for _ in nx.common_neighbors(graph, a, b))]
        )
    return graph


def _branches(graph: nx.Graph) -> Iterator[_Branch]:
    """Yield the paths between voxels that don't have two neighbours, and the rings."""
    ends = {node for node, degree in graph.degree if degree != 2}
    seen: set[tuple[int, int]] = set()
    for end in ends:
        for second in graph[end]:
            if (end, second) in seen:
                continue
            branch = [end, second]
            while branch[-1] not in ends:
                branch.append(next(node for node in graph[branch[-1]] if node != branch[-2]))
            seen |= {(branch[0], branch[1]), (branch[-1], branch[-2])}
            yield branch
    for ring in nx.connected_components(graph):
        if not ring & ends:
            order = list(nx.dfs_preorder_nodes(graph.subgraph(ring)))
            yield [*order, order[0]]


def _length(places: NDArray[np.float64], branch: _Branch) -> float:
    """Return the length of a branch in mm after it is smoothed."""
    path = places[branch]
    if branch[0] == branch[-1]:
        path = gaussian_filter1d(path[:-1], SMOOTHING, axis=0, mode="wrap")
        path = np.concatenate([path, path[:1]])
    else:
        # Reflected about its ends, a path keeps them.
        more = min(int(4 * SMOOTHING), len(path) - 1)
        path = np.pad(path, ((more, more), (0, 0)), mode="reflect", reflect_type="odd")
        path = gaussian_filter1d(path, SMOOTHING, axis=0, mode="nearest")[more : len(path) - more]
    return float(np.linalg.norm(np.diff(path, axis=0), axis=1).sum())
