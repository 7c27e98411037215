"""Where in the tree each owner's last prompt ended."""

from __future__ import annotations

from collections import OrderedDict

from .steps import Owner
from .tree import Node
from .workflow import MAX_OWNERS

__all__ = ["Trails"]


class Trails:
    """The last node of each owner's last prompt; the least recently used owner is forgotten."""

    def __init__(self) -> None:
        self._ends: OrderedDict[Owner, Node] = OrderedDict()

    def end(self, owner: Owner) -> Node | None:
        """Return where an owner's last prompt ended, as far as it is still cached."""
        return self._ends.get(owner)

    def ended(self, owner: Owner, node: Node) -> None:
        """Note where an owner's prompt ended."""
        self._ends[owner] = node
        self._ends.move_to_end(owner)
        if len(self._ends) > MAX_OWNERS:
            self._ends.popitem(last=False)

    def shorten(self, leaf: Node, parent: Node) -> None:
        """Note that a leaf is evicted, and its parent becomes the end of who last used it."""
        if leaf.owner is not None and self._ends.get(leaf.owner) is leaf:
            self._ends[leaf.owner] = parent

    def left_out(self, owner: Owner, node: Node) -> list[Node]:
        """Return the nodes of an owner's last prompt that a prompt through `node` does not have.

        Parents come before children.
        """
        end = self._ends.get(owner)
        if end is None:
            return []
        kept = {id(above) for above in node.path()}
        gone = []
        for above in end.path():
            if id(above) in kept or above.parent is None:
                break
            gone.append(above)
        gone.reverse()
        return gone
