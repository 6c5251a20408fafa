"""The prefix of prefix-tuning: keys and values that every attention of a stack sees besides its own.

A prefix of ``n`` rows gives each block of a stack ``n`` extra keys and values, the same for every sample. The rows are
parameters themselves, or the output of a small network (the prefix encoder), which trains better and is folded away when
the prefix is saved (Li & Liang, "Prefix-Tuning", ACL 2021, §4.3). Rows that start equal stay equal, because each gets
the same gradient: so the embeddings start at random, and dropout inside the encoder keeps them apart. Rows can instead
start from given ones, the keys and values of real tokens (ibid., §7.4): then the network's last layer starts at zero and
what it makes is added to them.

:mod:`rankscope.models.tunings.prefix_live` makes a prefix work inside a model, and
:mod:`rankscope.models.tunings.prefix_files` stores it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from rankscope.errors import UsageError


@dataclass(frozen=True)
class PrefixShape:
    """What the attention of a stack takes."""

    layers: int
    """Blocks of the stack."""
    heads: int
    """Heads of keys and values in each."""
    width: int
    """Width of a head."""
    value_width: int | None = None
    """Width of a head's values where it is not that of its keys (MLA); None where it is."""

    @property
    def numbers(self) -> int:
        """Numbers that one row of the prefix holds: a key and a value in every head of every block."""
        return self.layers * self.heads * sum(self.widths)

    @property
    def widths(self) -> tuple[int, int]:
        """Widths of a head's keys and of its values."""
        return self.width, self.value_width or self.width

    def about(self) -> dict[str, int]:
        """The shape as plain data, without what is None."""
        return {name: number for name, number in asdict(self).items() if number is not None}


@dataclass(frozen=True)
class PrefixEncoder:
    """How the rows of a prefix are made."""

    projection: bool = True
    """Whether a network makes the rows; otherwise they are parameters themselves."""
    embedding: int = 0
    """Width of the embeddings that enter the network; 0 for heads × width of the stack."""
    hidden: int = 0
    """Width of the network's hidden layers; 0 for that of the embeddings."""
    depth: int = 2
    """Linear layers of the network, at least 1."""
    dropout: float = 0.1
    """Dropout before the last layer, in training."""
    init_std: float = 1.0
    """Standard deviation of the embeddings at the start (of the rows, without a network); 0 would leave rows equal."""
    given_start: bool = False
    """Whether the network adds to rows that are given (:meth:`Prefix.start_at`)."""

    def __post_init__(self) -> None:
        if self.depth < 1 or self.embedding < 0 or self.hidden < 0:
            raise UsageError(f"a prefix encoder has at least 1 layer and widths that are not negative; got {self}")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"the prefix's dropout lies in [0, 1); got {self.dropout}")
        if self.init_std <= 0:
            raise UsageError("a prefix that starts with equal rows keeps them equal: init_std must be above 0")


class PrefixRows(nn.Module):
    """The rows of one stack's prefix."""

    def __init__(self, shape: PrefixShape, rows: int, encoder: PrefixEncoder) -> None:
        super().__init__()
        self.shape, self.rows, self.encoder = shape, rows, encoder
        if not encoder.projection:
            self.table = nn.Parameter(torch.randn(rows, shape.numbers) * encoder.init_std)
            return
        width = encoder.embedding or shape.heads * shape.width
        self.embedding = nn.Parameter(torch.randn(rows, width) * encoder.init_std)
        hidden = [encoder.hidden or width] * (encoder.depth - 1)
        layers: list[nn.Module] = []
        for before, after in zip([width, *hidden], hidden, strict=False):
            layers += [nn.Linear(before, after), nn.Tanh()]
        layers += [nn.Dropout(encoder.dropout), nn.Linear(([width, *hidden])[-1], shape.numbers)]
        self.network = nn.Sequential(*layers)
        if encoder.given_start:
            self.register_buffer("start", torch.zeros(rows, shape.numbers))
            # The last layer alone starts at zero: what it adds is nothing, and its gradient is not.
            nn.init.zeros_(layers[-1].get_parameter("weight"))
            nn.init.zeros_(layers[-1].get_parameter("bias"))

    def forward(self) -> Tensor:
        """``(n, numbers)`` rows: for each block its key, then its value, head by head."""
        made: Tensor = self.network(self.embedding) if self.encoder.projection else self.table
        return made + self.get_buffer("start") if self.encoder.projection and self.encoder.given_start else made


class Prefix(nn.Module):
    """A prefix for one or several stacks of a model; called with a stack's name it returns that stack's keys and values."""

    def __init__(
        self, shapes: Mapping[str, PrefixShape], *, rows: int = 16, encoder: PrefixEncoder | None = None
    ) -> None:
        super().__init__()
        if rows < 1:
            raise UsageError(f"a prefix has at least 1 row; got {rows}")
        if not shapes:
            raise UsageError("a prefix needs at least one stack")
        self.rows, self.encoder = rows, encoder or PrefixEncoder()
        self.stacks = nn.ModuleDict({name: PrefixRows(shape, rows, self.encoder) for name, shape in shapes.items()})
        self.head: dict[str, Tensor] = {}
        """The tensors of a classification head that was trained with the prefix, by their names in the model."""
        self.hidden = False
        """Whether nothing sees the rows, which then shift positions and do nothing else; see :func:`rows_hidden`."""

    @property
    def shapes(self) -> dict[str, PrefixShape]:
        """The shape of each stack's attention."""
        return {name: rows.shape for name, rows in self.stacks.items() if isinstance(rows, PrefixRows)}

    def forward(self, stack: str) -> list[tuple[Tensor, Tensor]]:
        """Keys and values for every block of a stack.

        Returns:
            For each block ``(heads, n, width)`` keys, and values alike.
        """
        shape = self.shapes[stack]
        blocks = self.stacks[stack]().view(self.rows, shape.layers, -1).unbind(1)
        return [(keys, values) for keys, values in (self._parts(block, shape) for block in blocks)]

    def _parts(self, block: Tensor, shape: PrefixShape) -> list[Tensor]:
        """``(n, heads · width)`` keys and values side by side, apart and by head."""
        parts = block.split([shape.heads * width for width in shape.widths], dim=1)
        return [part.view(self.rows, shape.heads, -1).transpose(0, 1) for part in parts]

    @torch.no_grad()
    def start_at(self, tables: Mapping[str, Tensor]) -> None:
        """Let the rows start where they are told, exactly.

        Args:
            tables: ``(n, numbers)`` rows of each stack.
        """
        for name, table in tables.items():
            rows = self.stacks[name]
            assert isinstance(rows, PrefixRows)
            into = rows.get_buffer("start") if self.encoder.projection else rows.get_parameter("table")
            into.copy_(table)

    @torch.no_grad()
    def tables(self) -> dict[str, Tensor]:
        """``(n, numbers)`` rows of each stack as they act in inference: no dropout, folded."""
        was = self.training
        tables = {name: rows().detach().clone() for name, rows in self.eval().stacks.items()}
        self.train(was)
        return tables

    def about(self) -> dict[str, object]:
        """What it takes to build this prefix anew, as plain data."""
        shapes = {name: shape.about() for name, shape in self.shapes.items()}
        return {"rows": self.rows, "stacks": shapes, "encoder": asdict(self.encoder)}

    @classmethod
    def of_tables(cls, tables: Mapping[str, Tensor], shapes: Mapping[str, PrefixShape]) -> Prefix:
        """The prefix whose rows are given; they are its parameters, without a network.

        Args:
            tables: ``(n, numbers)`` rows of each stack.
            shapes: the shape of each stack.
        """
        rows = next(iter(tables.values())).shape[0]
        prefix = cls({name: shapes[name] for name in tables}, rows=rows, encoder=PrefixEncoder(projection=False))
        with torch.no_grad():
            for name, table in tables.items():
                prefix.stacks[name].get_parameter("table").copy_(table)
        return prefix


@contextmanager
def rows_hidden(prefix: Prefix) -> Iterator[None]:
    """Inside the block nothing sees the prefix's rows: where they lie in a cache they still shift the positions of the text."""
    prefix.hidden = True
    try:
        yield
    finally:
        prefix.hidden = False
