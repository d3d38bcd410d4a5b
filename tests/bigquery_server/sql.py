"""BigQuery's SQL as DuckDB's: one SELECT in, one SELECT out, and what it reads; none is run here.

sqlglot parses, and knows most differences of the two. What it does not know, or what was not
checked here, is refused: `_KNOWN` lists the syntax that may pass. So a statement that this server
cannot answer rightly is an error. Known to differ all the same: NaN compares and sorts as DuckDB
has it, and implicit casts that BigQuery refuses (an INT64 compared with text) are let through.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import sqlglot
from sqlglot import exp
from sqlglot.errors import ErrorLevel, ParseError, TokenError, UnsupportedError

from tests.bigquery_server.catalog import PARTITION_DATE, PARTITION_TIME, TableRef, Version
from tests.bigquery_server.errors import invalid_query

# fmt: off
_KNOWN: frozenset[type[exp.Expr]] = frozenset({
    exp.Abs, exp.Add, exp.Alias, exp.And, exp.AnyValue, exp.ApproxDistinct, exp.Array, exp.ArrayAgg,
    exp.ArraySize, exp.Avg, exp.Between, exp.Boolean, exp.Bracket, exp.ByteLength, exp.ByteString,
    exp.CTE, exp.Case, exp.Cast, exp.Ceil, exp.Coalesce, exp.Column, exp.Concat, exp.Count,
    exp.CountIf, exp.CurrentDate, exp.CurrentTimestamp, exp.DPipe, exp.DataType, exp.Date,
    exp.DateAdd, exp.DateSub, exp.DateTrunc, exp.DenseRank, exp.Distinct, exp.Div, exp.Dot, exp.EQ,
    exp.Except, exp.Exists, exp.Exp, exp.Extract, exp.FarmFingerprint, exp.Floor, exp.From, exp.GT,
    exp.GTE, exp.GenerateSeries, exp.Greatest, exp.Group, exp.Having, exp.Identifier, exp.If,
    exp.In, exp.IntDiv, exp.Intersect, exp.Interval, exp.Is, exp.IsInf, exp.IsNan, exp.JSONFormat,
    exp.Join, exp.LT, exp.LTE, exp.Least, exp.Length, exp.Like, exp.Limit, exp.Literal, exp.Ln,
    exp.LogicalAnd, exp.LogicalOr, exp.Lower, exp.Max, exp.Min, exp.Mod, exp.Mul, exp.NEQ, exp.Neg,
    exp.Not, exp.Null, exp.Nullif, exp.Offset, exp.Or, exp.Order, exp.Ordered, exp.Parameter,
    exp.Paren, exp.Placeholder, exp.Pow, exp.PropertyEQ, exp.Qualify, exp.Rand, exp.Rank,
    exp.RawString, exp.RegexpLike, exp.RowNumber, exp.SafeDivide, exp.Select, exp.Sqrt, exp.Star,
    exp.StartsWith, exp.Struct, exp.Sub, exp.Subquery, exp.Substring, exp.Sum, exp.Table,
    exp.TableAlias, exp.Timestamp, exp.TimestampAdd, exp.TimestampSub, exp.TimestampTrunc,
    exp.TryCast, exp.Tuple, exp.Union, exp.UnixMicros, exp.UnixToTime, exp.Unnest, exp.Upper,
    exp.Var, exp.Version, exp.Where, exp.Window, exp.WindowSpec, exp.With,
})
# fmt: on
_RESERVED_WORDS = """
    ALL AND ANY ARRAY AS ASC ASSERT_ROWS_MODIFIED AT BETWEEN BY CASE CAST COLLATE CONTAINS CREATE
    CROSS CUBE CURRENT DEFAULT DEFINE DESC DISTINCT ELSE END ENUM ESCAPE EXCEPT EXCLUDE EXISTS
    EXTRACT FALSE FETCH FOLLOWING FOR FROM FULL GROUP GROUPING GROUPS HASH HAVING IF IGNORE IN INNER
    INTERSECT INTERVAL INTO IS JOIN LATERAL LEFT LIKE LIMIT LOOKUP MERGE NATURAL NEW NO NOT NULL
    NULLS OF ON OR ORDER OUTER OVER PARTITION PRECEDING PROTO QUALIFY RANGE RECURSIVE RESPECT RIGHT
    ROLLUP ROWS SELECT SET SOME STRUCT TABLESAMPLE THEN TO TREAT TRUE UNBOUNDED UNION UNNEST USING
    WHEN WHERE WINDOW WITH WITHIN
"""
# https://cloud.google.com/bigquery/docs/reference/standard-sql/lexical#reserved_keywords
_RESERVED = frozenset(_RESERVED_WORDS.split())
_CAST_TYPES = frozenset(
    ("INT64", "FLOAT64", "STRING", "BYTES", "BOOL", "DATE", "DATETIME", "TIMESTAMP", "NUMERIC")
)
_UNITS = frozenset(["YEAR", "QUARTER", "MONTH", "DAY", "HOUR", "MINUTE", "SECOND"])
_PSEUDO = (PARTITION_TIME, PARTITION_DATE)


@dataclass(frozen=True)
class FoundTable:
    """What a name in FROM stands for: rows, or a view's SQL."""

    ref: TableRef
    version: Version | None
    view_sql: str | None = None


Lookup = Callable[[Sequence[str], "exp.Expr | None"], FoundTable]
"""From the parts of a name, and the expression after FOR SYSTEM_TIME AS OF."""


@dataclass
class Translation:
    """A statement that DuckDB can run.

    Args:
        sql: It.
        relations: What its tables are called in it, and their rows.
        bytes_by_table: Bytes of the columns that it reads, as BigQuery would bill them.
        count_columns: Places of the result's columns that are COUNT or COUNTIF.
    """

    sql: str
    relations: dict[str, pa.Table] = field(default_factory=dict)
    bytes_by_table: dict[TableRef, int] = field(default_factory=dict)
    count_columns: list[int] = field(default_factory=list)


def translate(
    sql: str, lookup: Lookup, parameters: Sequence[Mapping[str, Any]] = ()
) -> Translation:
    """Translates one SELECT.

    Args:
        sql: In BigQuery's standard dialect.
        lookup: Finds tables.
        parameters: REST's QueryParameters.

    Raises:
        ApiError: invalidQuery, or what `lookup` raises.
    """
    translation = Translation("")
    tree = _Statement(sql, lookup, parameters, translation).tree()
    translation.count_columns = [
        place for place, column in enumerate(tree.selects) if _is_count(column.unalias())
    ]
    translation.sql = generate(tree)
    return translation


def generate(tree: exp.Expr) -> str:
    """DuckDB's text of a rewritten tree."""
    try:
        return tree.sql("duckdb", unsupported_level=ErrorLevel.RAISE)
    except UnsupportedError as error:
        raise invalid_query(f"Not supported by the local server: {error}") from error


def rewrite(tree: exp.Expr) -> exp.Expr:
    """Replaces, from the leaves up, what has another meaning in DuckDB."""
    for node in reversed(list(tree.walk())):
        made = _rewritten(node)
        if made is not node:
            if node is tree:
                tree = made
            else:
                node.replace(made)
    return tree


def position(sql: str, word: str) -> str:
    """Where a word first stands in a statement, as in " at [1:15]"."""
    found = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", sql, re.IGNORECASE)
    before = sql[: found.start()] if found else ""
    return f" at [{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}]"


class _Statement:
    """One statement, be it the query's or a view's."""

    def __init__(
        self,
        sql: str,
        lookup: Lookup,
        parameters: Sequence[Mapping[str, Any]],
        translation: Translation,
    ) -> None:
        self._sql = sql
        self._lookup = lookup
        self._parameters = parameters
        self._translation = translation
        self._tables: list[tuple[exp.Table, FoundTable]] = []

    def tree(self) -> exp.Query:
        tree = parse(self._sql)
        check(tree, self._sql)
        self._find_tables(tree)
        self._check_pseudo_columns(tree)
        self._name_columns(tree)
        self._shorten_columns(tree)
        self._count_bytes(tree)
        self._hide_pseudo_columns(tree)
        self._placeholders = list(tree.find_all(exp.Placeholder, bfs=False))
        for node in list(tree.find_all(exp.Parameter, exp.Placeholder)):
            node.replace(self._value(node))
        rewritten = rewrite(tree)
        assert isinstance(rewritten, exp.Query)
        for node, found in self._tables:
            self._replace_table(node, found)
        return rewritten

    def _find_tables(self, tree: exp.Query) -> None:
        common = {cte.alias.lower() for cte in tree.find_all(exp.CTE)}
        for node in tree.find_all(exp.Table):
            parts = [part.name for part in node.parts]
            if len(parts) == 1 and parts[0].lower() in common:
                continue
            as_of = node.args.get("version")
            if as_of is not None and as_of.args.get("kind") != "AS OF":
                raise invalid_query(f"Not supported by the local server: {as_of.sql()}")
            moment = None if as_of is None else as_of.expression
            self._tables.append((node, self._lookup(parts, moment)))

    def _aliases(self) -> Iterator[tuple[str, FoundTable]]:
        for node, found in self._tables:
            yield (node.alias or found.ref.table).lower(), found

    def _check_pseudo_columns(self, tree: exp.Query) -> None:
        partitioned = any(
            found.version is not None and found.version.partition_times is not None
            for _, found in self._tables
        )
        self._pseudo = False
        for column in tree.find_all(exp.Column):
            if column.name.upper() in _PSEUDO:
                if not partitioned:
                    where = position(self._sql, column.name)
                    raise invalid_query(f"Unrecognized name: {column.name}{where}")
                self._pseudo = True

    def _name_columns(self, tree: exp.Query) -> None:
        """Columns without a name are f0_, f1_, …; DuckDB would name them by their text."""
        for select in list(tree.find_all(exp.Select)):
            nameless = 0
            for column in list(select.expressions):
                if isinstance(column, exp.Dot):
                    column.replace(exp.alias_(column.copy(), column.name, quoted=True))
                elif not isinstance(column, exp.Alias | exp.Column | exp.Star):
                    column.replace(exp.alias_(column.copy(), f"f{nameless}_"))
                    nameless += 1

    def _shorten_columns(self, tree: exp.Query) -> None:
        """`project.dataset.table.column` becomes `table.column`; `table.struct.*`, `struct.*`."""
        aliases = dict(self._aliases())
        for column in list(tree.find_all(exp.Column)):
            parts = list(column.parts)
            names = [part.name for part in parts]
            for _, found in self._tables:
                full = list(found.ref)
                if names[:3] == full and len(names) > 3:
                    parts = parts[2:]
                elif names[:2] == full[1:] and len(names) > 2 and names[0].lower() not in aliases:
                    parts = parts[1:]
            is_star = isinstance(column.this, exp.Star)
            if is_star and len(parts) == 3 and parts[0].name.lower() in aliases:
                parts = parts[1:]
            if len(parts) < len(names):
                column.replace(_column(parts))

    def _count_bytes(self, tree: exp.Query) -> None:
        paths = [_path(node) for node in tree.find_all(exp.Column) if not _is_inner(node)]
        for join in tree.find_all(exp.Join):
            paths += [[name.name] for name in join.args.get("using") or ()]
        for node, found in self._tables:
            if found.version is None:
                continue
            alias = (node.alias or found.ref.table).lower()
            read: set[tuple[str, ...]] = set()
            for path in paths:
                own = path[1:] if path[0].lower() == alias else path
                read |= _leaves(found.version.rows.schema, own)
            read |= _starred(node, alias, found.version.rows.schema)
            sizes = sum(found.version.size_of(leaf) for leaf in read)
            totals = self._translation.bytes_by_table
            totals[found.ref] = totals.get(found.ref, 0) + sizes

    def _hide_pseudo_columns(self, tree: exp.Query) -> None:
        """Of a star, where the statement names pseudo-columns and so has them in its tables."""
        if not self._pseudo:
            return
        partitioned = {
            alias
            for alias, found in self._aliases()
            if found.version is not None and found.version.partition_times is not None
        }
        for select in tree.find_all(exp.Select):
            own = {
                (source.alias or source.name).lower()
                for source in _sources(select)
                if isinstance(source, exp.Table)
            }
            for column in select.expressions:
                star = column if isinstance(column, exp.Star) else column.this
                if not isinstance(star, exp.Star):
                    continue
                named = column.table.lower() if isinstance(column, exp.Column) else None
                of = own if named is None else own & {named}
                if of & partitioned:
                    hidden = [exp.to_identifier(name) for name in _PSEUDO]
                    star.set("except_", [*(star.args.get("except_") or ()), *hidden])

    def _value(self, node: exp.Expr) -> exp.Expr:
        """The value of a query parameter."""
        if isinstance(node, exp.Parameter):
            name = node.name
            for parameter in self._parameters:
                if parameter.get("name", "").lower() == name.lower():
                    return _constant(parameter["parameterType"], parameter["parameterValue"])
            raise invalid_query(f"Query parameter '{name}' not found{position(self._sql, name)}")
        positional = [one for one in self._parameters if not one.get("name")]
        place = next(n for n, one in enumerate(self._placeholders) if one is node)
        if place >= len(positional):
            raise invalid_query(f"Query parameter number {place + 1} is not defined")
        one = positional[place]
        return _constant(one["parameterType"], one["parameterValue"])

    def _replace_table(self, node: exp.Table, found: FoundTable) -> None:
        alias = exp.TableAlias(this=exp.to_identifier(node.alias or found.ref.table, quoted=True))
        if found.view_sql is not None:
            inner = _Statement(found.view_sql, self._lookup, (), self._translation).tree()
            node.replace(exp.Subquery(this=inner, alias=alias))
            return
        assert found.version is not None
        version = found.version
        rows = version.with_pseudo_columns() if self._pseudo else version.rows
        kept = [one.name for one in rows.schema if not _is_wide(one.type)]
        if len(kept) < rows.num_columns:
            raise invalid_query("Not supported by the local server: queries over BIGNUMERIC")
        name = f"rows_{version.id}{'_pseudo' if self._pseudo else ''}"
        self._translation.relations[name] = rows
        node.replace(exp.Table(this=exp.to_identifier(name, quoted=True), alias=alias))


def parse(sql: str) -> exp.Query:
    """The tree of a single query.

    Raises:
        ApiError: the text is none.
    """
    try:
        trees = sqlglot.parse(sql, read="bigquery")
    except TokenError as error:
        raise invalid_query(f"Syntax error: {str(error).splitlines()[0]} at [1:1]") from error
    except ParseError as error:
        raise invalid_query(_syntax_error(sql, error)) from error
    if len(trees) != 1 or trees[0] is None:
        raise invalid_query("Syntax error: Unexpected end of statement at [1:1]")
    tree = trees[0]
    if not isinstance(tree, exp.Query):
        first = sql.split()[0]
        if isinstance(tree, exp.DDL | exp.DML | exp.Command | exp.Drop):
            raise invalid_query(f"Not supported by the local server: {first} statements")
        raise invalid_query(f'Syntax error: Unexpected identifier "{first}" at [1:1]')
    return tree


def _syntax_error(sql: str, error: ParseError) -> str:
    first = sql.split()[0] if sql.split() else ""
    if first.lstrip("(").upper() not in ("SELECT", "WITH", "FROM"):
        return f'Syntax error: Unexpected identifier "{first}" at [1:1]'
    detail = error.errors[0] if error.errors else {}
    token = detail.get("highlight") or ""
    line, column = detail.get("line") or 1, detail.get("col") or 1
    what = f'Unexpected "{token}"' if token else "Unexpected end of script"
    if token.isidentifier():
        what = f"Unexpected keyword {token.upper()}"
    return f"Syntax error: {what} at [{line}:{max(1, column - len(token) + 1)}]"


def check(tree: exp.Expr, sql: str) -> None:
    """Refuses all that is not known to mean the same here."""
    for node in tree.walk():
        if isinstance(node, exp.Anonymous):
            raise invalid_query(
                f"Function not found: {node.name}{position(sql, node.name)} "
                "(or not supported by the local server)"
            )
        if type(node) not in _KNOWN:
            what = node.sql_name() if isinstance(node, exp.Func) else type(node).__name__
            raise invalid_query(f"Not supported by the local server: {what}{position(sql, what)}")
        if _is_reserved(node):
            where = position(sql, node.name)
            raise invalid_query(f"Syntax error: Unexpected keyword {node.name.upper()}{where}")
        reason = _doubt(node)
        if reason is not None:
            raise invalid_query(f"Not supported by the local server: {reason}")


def _is_reserved(node: exp.Expr) -> bool:
    """Whether it is a name that must stand in backquotes, and does not; after a dot it need not."""
    if not isinstance(node, exp.Identifier) or node.args.get("quoted"):
        return False
    parent = node.parent
    begins = isinstance(parent, exp.Alias | exp.TableAlias | exp.PropertyEQ) or (
        isinstance(parent, exp.Column) and not parent.table
    )
    return begins and node.name.upper() in _RESERVED


def _doubt(node: exp.Expr) -> str | None:  # noqa: C901  # a list of cases
    """What is wrong with a node whose kind is known."""
    args = node.args
    if isinstance(node, exp.Cast):
        kind = args["to"].sql("bigquery")
        if kind not in _CAST_TYPES or args.get("format"):
            return f"CAST to {kind}"
    elif isinstance(node, exp.Like):
        pattern = node.expression
        if not isinstance(pattern, exp.Literal) or "\\" in pattern.name:
            return "LIKE with a pattern that is no literal, or has a backslash"
    elif isinstance(node, exp.Substring):
        start = args.get("start")
        if not isinstance(start, exp.Literal) or start.is_string or int(start.name) < 1:
            return "SUBSTR from a place that is no positive literal"
    elif isinstance(node, exp.Select):
        if args.get("kind"):
            return f"SELECT AS {args['kind']}"
    elif isinstance(node, exp.With):
        if args.get("recursive"):
            return "WITH RECURSIVE"
    elif isinstance(node, exp.Unnest):
        if args.get("offset"):
            return "UNNEST WITH OFFSET"
    elif isinstance(node, exp.Group):
        if any(value for name, value in args.items() if name != "expressions"):
            return "GROUP BY ALL, ROLLUP, CUBE and GROUPING SETS"
    elif isinstance(node, exp.Extract):
        if node.name.upper() not in _UNITS - {"SECOND"}:
            return f"EXTRACT({node.name})"
    elif isinstance(node, exp.Bracket):
        if args.get("safe"):
            return "SAFE_OFFSET"
    elif isinstance(node, exp.DateTrunc | exp.TimestampTrunc):
        if args["unit"].name.upper() not in _UNITS or args.get("zone"):
            return f"truncation to {args['unit'].sql()}"
    elif isinstance(node, exp.Date | exp.Timestamp) and (
        args.get("expressions") or args.get("zone")
    ):
        return f"{node.sql_name()} of several arguments"
    return None


def _rewritten(node: exp.Expr) -> exp.Expr:  # noqa: C901  # a list of cases
    """The same in words that engine.py defines, or the node itself."""
    if isinstance(node, exp.Cast):  # TryCast too
        safe = isinstance(node, exp.TryCast)
        kind = node.args["to"].sql("bigquery")
        if kind in ("STRING", "BYTES"):
            return _call(f"bq_{kind.lower()}", node.this)
        if kind == "INT64":
            return _call("bq_safe_int64" if safe else "bq_int64", node.this)
        if kind == "NUMERIC":
            node.set("to", exp.DataType.build("DECIMAL(38, 9)", dialect="duckdb"))
    elif isinstance(node, exp.Div):
        return _call("bq_divide", node.this, node.expression)
    elif isinstance(node, exp.Literal):
        if not node.is_string and "." in node.name and "e" not in node.name.lower():
            return exp.Literal.number(f"{float(node.name)!r}e0")  # FLOAT64, not a decimal
    elif isinstance(node, exp.JSONFormat):
        return _json(node.this)
    elif isinstance(node, exp.CountIf):
        if not isinstance(node.parent, exp.Window):  # over no rows, it is NULL in DuckDB
            return exp.Coalesce(this=node.copy(), expressions=[exp.Literal.number(0)])
    elif isinstance(node, exp.DateAdd | exp.DateSub):
        node.set("this", _call("bq_only_date", node.this))
        return exp.cast(node, "DATE")
    elif isinstance(node, exp.DateTrunc):
        unit = exp.Literal.string(node.args["unit"].name)
        return _call("bq_date_trunc", unit, node.this)
    elif isinstance(node, exp.Ceil):
        return _call("ceil", exp.cast(node.this, "DOUBLE"))
    return node


def _is_count(node: exp.Expr) -> bool:
    return isinstance(node, exp.Count | exp.CountIf) or (
        isinstance(node, exp.Coalesce) and isinstance(node.this, exp.CountIf)
    )


def _json(value: exp.Expr) -> exp.Expr:
    """TO_JSON_STRING: of a STRUCT that is written out, field by field."""
    if not isinstance(value, exp.Struct) or not value.expressions:
        return _call("bq_to_json_string", value.copy())
    parts: list[exp.Expr] = []
    for one in value.expressions:
        if not isinstance(one, exp.PropertyEQ):
            return _call("bq_to_json_string", value.copy())
        name = json.dumps(one.name, ensure_ascii=False)
        parts.append(exp.Literal.string(f"{',' if parts else '{'}{name}:"))
        parts.append(_json(one.expression))
    return exp.Concat(expressions=[*parts, exp.Literal.string("}")])


def _call(function: str, *arguments: exp.Expr) -> exp.Expr:
    return exp.Anonymous(this=function, expressions=list(arguments))


def _constant(kind: Mapping[str, Any], value: Mapping[str, Any]) -> exp.Expr:
    """A query parameter's value, before `rewrite`."""
    name = kind["type"].upper()
    if name == "ARRAY":
        values = [_constant(kind["arrayType"], one) for one in value.get("arrayValues", ())]
        return exp.Array(expressions=values)
    text = value.get("value")
    made = exp.null() if text is None else exp.Literal.string(text)
    if name == "STRING" and text is not None:
        return made
    name = {"INTEGER": "INT64", "FLOAT": "FLOAT64", "BOOLEAN": "BOOL"}.get(name, name)
    if name not in _CAST_TYPES - {"BYTES"}:
        raise invalid_query(f"Not supported by the local server: parameters of type {name}")
    return exp.Cast(this=made, to=exp.DataType.build(name, dialect="bigquery"))


def _column(parts: Sequence[Any]) -> exp.Column:
    places = ("this", "table", "db", "catalog")
    return exp.Column(**dict(zip(places, reversed(parts), strict=False)))


def _path(column: exp.Column) -> list[str]:
    """The names of a column and of the fields that are taken of it."""
    names = [part.name for part in column.parts]
    parent, child = column.parent, column
    while isinstance(parent, exp.Dot) and parent.this is child:
        names.append(parent.expression.name)
        parent, child = parent.parent, parent  # type: ignore[assignment]  # a Dot, as a Column
    return names


def _is_inner(column: exp.Column) -> bool:
    return column.find_ancestor(exp.Star) is not None  # of an EXCEPT list


def _leaves(schema: pa.Schema, path: Sequence[str]) -> set[tuple[str, ...]]:
    """The column, or the field in it, that a path names in a schema."""
    found: list[str] = []
    fields = list(schema)
    for name in path:
        if name in ("*", "") and found:
            break
        one = next((one for one in fields if one.name.lower() == name.lower()), None)
        if one is None:
            break
        found.append(one.name)
        kind = one.type
        if not pa.types.is_struct(kind):
            break
        fields = [kind.field(index) for index in range(kind.num_fields)]
    return {tuple(found)} if found else set()


def _starred(node: exp.Table, alias: str, schema: pa.Schema) -> set[tuple[str, ...]]:
    """The columns that stars of its SELECT read of a table."""
    select = node.find_ancestor(exp.Select)
    if select is None:
        return set()
    read: set[tuple[str, ...]] = set()
    for column in select.expressions:
        star = column if isinstance(column, exp.Star) else column.this
        if not isinstance(star, exp.Star):
            continue
        if isinstance(column, exp.Column) and column.table.lower() != alias:
            continue
        left_out = {one.name.lower() for one in star.args.get("except_") or ()}
        read |= {(name,) for name in schema.names if name.lower() not in left_out}
    return read


def _sources(select: exp.Select) -> Iterator[exp.Expr]:
    start = select.args.get("from_")
    if start is not None:
        yield start.this
    for join in select.args.get("joins") or ():
        yield join.this


def _is_wide(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind):
        return _is_wide(kind.value_type)
    if pa.types.is_struct(kind):
        return any(_is_wide(kind.field(index).type) for index in range(kind.num_fields))
    return bool(pa.types.is_decimal256(kind))
