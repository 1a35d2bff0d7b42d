"""What Citus refuses in a query, for the stand-in in citus.sql: by the tree into which PostgreSQL parses it.

The rules and messages are those of src/backend/distributed/planner/query_pushdown_planning.c, as far as our queries
have met them.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import psycopg
import sqlalchemy as sa

Node: TypeAlias = "dict[str, Any]"
Kinds = Mapping[str, str]  # by relation: h (distributed by market) or n (replicated)
QUERIES = re.compile(
    r"\s*(?:--[^\n]*\n\s*)*(CREATE TEMPORARY TABLE \S+ ON COMMIT DROP AS )?(?=SELECT|WITH|INSERT|DELETE)"
)
TOKEN = re.compile(r'[{}()]|"(?:\\.|[^"\\])*"|(?:\\.|[^\s{}()\\])+')
RELATION, SUBQUERY, FUNCTION, VALUES, CTE = "0", "1", "3", "5", "6"  # kinds of range table entries
LEFT, ALWAYS = "1", "1"  # a join, MATERIALIZED
INSERT, DELETE = "3", "4"  # commands
NO_CORRELATION = "correlated subqueries are not supported when the FROM clause contains {}"
RECURRING = {
    RELATION: "a reference table",
    SUBQUERY: "a CTE or subquery",
    FUNCTION: "a set returning function",
    VALUES: "VALUES",
    CTE: "a CTE or subquery",
}


@contextmanager
def refusing(url: str) -> Iterator[list[str]]:
    """Refuse queries on the database as Citus would; yields the parsed ones. `url`: the owner's."""
    parsed = list[str]()
    with psycopg.connect(url, autocommit=True) as owner:
        relations, database = kinds(owner), owner.info.dbname

        def before_execution(connection: sa.Connection, _: Any, statement: str, values: Any, *__: Any) -> None:
            found = QUERIES.match(statement)
            if connection.engine.url.database != database or not found:
                return
            session: Any = connection.connection.dbapi_connection
            first = values[0] if isinstance(values, list) else values
            query = psycopg.ClientCursor(session).mogrify(statement[found.end() :], first)
            parsed.append(query)
            # temporary tables exist in their own session only
            parsing = session if "pg_temp" in query else owner
            if why := refusal(tree_of(parsing, query), relations, session):
                raise psycopg.errors.FeatureNotSupported(why)

        sa.event.listen(sa.Engine, "before_cursor_execute", before_execution)
        try:
            yield parsed
        finally:
            sa.event.remove(sa.Engine, "before_cursor_execute", before_execution)


def kinds(connection: psycopg.Connection[Any]) -> Kinds:
    return dict(
        connection.execute("SELECT logicalrelid::oid::text, partmethod::text FROM pg_dist_partition").fetchall()
    )


def tree_of(connection: psycopg.Connection[Any], query: str) -> Node:
    """The parsed query: PostgreSQL stores it as a function's body."""
    name = "pg_temp.parsed"
    with connection.transaction(force_rollback=True):
        connection.execute(
            f"CREATE FUNCTION {name}() RETURNS void BEGIN ATOMIC {query.rstrip().rstrip(';')}; END".encode()
        )
        [(text,)] = connection.execute(f"SELECT prosqlbody::text FROM pg_proc WHERE oid = '{name}'::regproc".encode())
    ((query_tree,),) = nodes(iter(TOKEN.findall(text)))
    found: Node = query_tree[0]
    return found


def nodes(tokens: Iterator[str]) -> list[Any]:
    """A list's items: nodes as {"node": type, field: value}, lists, and words."""
    items: list[Any] = []
    for word in tokens:
        if word in ("}", ")"):
            break
        items.append(node(nodes(tokens)) if word == "{" else nodes(tokens) if word == "(" else word)
    return items


def node(items: list[Any]) -> Node:
    found: Node = {"node": items[0]}
    name = ""
    for item in items[1:]:
        if isinstance(item, str) and re.match(r":[a-zA-Z]", item):
            name = item[1:]
        else:
            found[name] = item if name not in found else [found[name], item]
    return found


def walk(of: Any, depth: int = 0) -> Iterator[tuple[Node, int]]:
    """All nodes, each with the number of queries around it within `of`."""
    if isinstance(of, dict):
        yield of, depth
    for each in of.values() if isinstance(of, dict) else of if isinstance(of, list) else ():
        yield from walk(each, depth + (isinstance(of, dict) and of["node"] == "QUERY"))


def refusal(query: Node, kinds: Kinds, session: psycopg.Connection[Any]) -> str | None:
    """Why Citus refuses it, or None."""
    queries = [each for each, _ in walk(query) if each["node"] == "QUERY"]
    if (name := not_lockable(query, kinds, session)) is not None:
        return f"permission denied for table {name.partition('.')[2]}"
    if reads_distributed(query, kinds) and any(is_of_a_machine(each) for each, _ in walk(query)):
        return "each machine has its own transactions and snapshots"
    if is_of_one_market(queries, kinds):
        return None
    ctes = {each["ctename"]: each for each, _ in walk(query) if each["node"] == "COMMONTABLEEXPR"}
    return next((why for each in queries for why in correlated(each, kinds, ctes)), None)


def not_lockable(query: Node, kinds: Kinds, session: psycopg.Connection[Any]) -> str | None:
    """A replicated table that the role may not change, and that a statement locks: in a DELETE, or by ON CONFLICT."""
    if query["commandType"] == INSERT and query["onConflict"] != "<>":
        locked = [query["rtable"][int(query["resultRelation"]) - 1]]
    else:
        locked = query["rtable"] if query["commandType"] == DELETE else []
    for relation in (entry["relid"] for entry in locked if kinds.get(str(entry.get("relid"))) == "n"):
        may = "SELECT %s::oid::regclass::text, has_table_privilege(%s::oid, 'UPDATE, DELETE')"
        [(name, allowed)] = session.execute(may, [relation, relation])
        if not allowed:
            return str(name)
    return None


SNAPSHOT_FUNCTIONS = {"5061", "5063"}  # pg_current_snapshot, pg_snapshot_xmax


def is_of_a_machine(each: Node) -> bool:
    return each["node"] == "FUNCEXPR" and each["funcid"] in SNAPSHOT_FUNCTIONS


def reads_distributed(of: Any, kinds: Kinds) -> bool:
    return any(each["node"] == "RANGETBLENTRY" and kinds.get(str(each.get("relid"))) == "h" for each, _ in walk(of))


def is_of_one_market(queries: list[Node], kinds: Kinds) -> bool:
    """Whether all of it is on one machine, which executes it as it is."""
    return all(
        has_one_market(query, index)
        for query in queries
        for index, entry in enumerate(query["rtable"] if isinstance(query["rtable"], list) else (), 1)
        if kinds.get(str(entry.get("relid"))) == "h"
    )


def has_one_market(query: Node, index: int) -> bool:
    """Whether a table's market is compared with a constant."""
    names = [name.strip('"') for name in query["rtable"][index - 1]["eref"]["colnames"]]
    market = str(names.index("market") + 1)
    for each, depth in walk(query["jointree"]):
        if each["node"] == "OPEXPR" and depth == 0 and len(each["args"]) == 2:
            sides = [side.get("arg", side) for side in each["args"]]
            columns = [side for side in sides if side["node"] == "VAR"]
            if len(columns) == 1 and any(side["node"] == "CONST" for side in sides):
                of = columns[0]
                if (of["varno"], of["varattno"], of["varlevelsup"]) == (str(index), market, "0"):
                    return True
    return False


def correlated(query: Node, kinds: Kinds, ctes: Mapping[str, Node]) -> Iterator[str]:
    """The refusals of a query's subqueries that refer to its own tables."""
    entries: list[Node] = query["rtable"] if isinstance(query["rtable"], list) else []
    recurring = [entry for entry in entries if entry["rtekind"] in RECURRING and recurs(entry, kinds, ctes)]
    distributed = len(recurring) < len([entry for entry in entries if entry["rtekind"] in RECURRING])
    for inner in sublinks(query):
        refers = any(True for _ in references(inner))
        if refers and (reads_distributed(inner, kinds) and not distributed):
            yield NO_CORRELATION.format(RECURRING[recurring[0]["rtekind"]] if recurring else "a subquery without FROM")
        if (
            refers
            and distributed
            and any(True for _ in sublinks(inner))
            and not reads_distributed(inner["rtable"], kinds)
        ):
            yield NO_CORRELATION.format(RECURRING[RELATION])
        if not refers and inner["targetList"] == "<>" and reads_distributed(inner, kinds):
            yield 'a column definition list is required for functions returning "record"'
    for index, entry in enumerate(entries, 1):
        if entry["rtekind"] != SUBQUERY or entry["lateral"] != "true" or not reads_distributed(entry, kinds):
            continue
        inner = entry["subquery"]
        to = [entries[of - 1] for of in references(inner) if entries[of - 1] in recurring]
        if to and is_outer_joined(query, index):
            what = RECURRING[to[0]["rtekind"]]
            yield f"cannot perform a lateral outer join when a distributed subquery references {what}"
        elif to and requires_merge(inner):
            yield "cannot push down this subquery"


def sublinks(query: Node) -> Iterator[Node]:
    """The subqueries in a query's expressions, without those of its FROM clause."""
    for each, depth in walk({**query, "node": "", "rtable": [], "cteList": []}):
        if each["node"] == "SUBLINK" and depth == 0:
            yield each["subselect"]


def references(inner: Node) -> Iterator[int]:
    """The entries of the query around it that it refers to."""
    for each, depth in walk(inner):
        if each["node"] == "VAR" and int(each["varlevelsup"]) == depth:
            yield int(each["varno"])


def recurs(entry: Node, kinds: Kinds, ctes: Mapping[str, Node]) -> bool:
    """Whether an entry has all its rows on each machine."""
    if entry["rtekind"] != CTE:
        return not reads_distributed(entry, kinds)
    cte = ctes[entry["ctename"]]
    is_inlined = cte["ctematerialized"] != ALWAYS and cte["cterefcount"] == "1"
    return not (is_inlined and reads_distributed(cte, kinds))


def is_outer_joined(query: Node, index: int) -> bool:
    joins = (each for each, _ in walk(query["jointree"]) if each["node"] == "JOINEXPR" and each["jointype"] == LEFT)
    inner = [of for join in joins for of, _ in walk(join["rarg"]) if of["node"] == "RANGETBLREF"]
    return any(of["rtindex"] == str(index) for of in inner)


def requires_merge(query: Node) -> bool:
    """Whether it has a limit, or an aggregate over all rows."""
    limited = query["limitCount"] != "<>" or query["limitOffset"] != "<>"
    return limited or (query["hasAggs"] == "true" and query["groupClause"] == "<>")
