"""The part of Qdrant's REST API that we call, answered by qdrant-client's local engine.

Statuses and messages are those of Qdrant 1.18, whose source they were read from.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections.abc import Callable, Hashable
from functools import cache
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast
from urllib.parse import unquote

from pydantic import TypeAdapter, ValidationError
from qdrant_client import models
from qdrant_client.local.qdrant_local import QdrantLocal
from qdrant_client.local.utils import normalize_point_id

from deploy.local.trial_qdrant.engine import IndexedCollection

__all__ = ["Api", "ApiError"]

T = TypeVar("T")

# What get_collection says of settings that only a real engine acts on.
CONFIG_SECTIONS = (
    "hnsw_config",
    "optimizers_config",
    "wal_config",
    "quantization_config",
    "strict_mode_config",
)
PARAMS: dict[str, Any] = {
    "shard_number": 1,
    "sharding_method": None,
    "replication_factor": 1,
    "write_consistency_factor": 1,
    "on_disk_payload": True,
}
FACET_TYPES = {"keyword", "integer", "bool", "uuid"}
RANGE_TYPES = {"integer", "float", "datetime", "uuid"}
MAX_BODY_BYTES = 32 * 1024 * 1024


class ApiError(Exception):
    """An answer other than success: the HTTP status and the message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@cache
def _adapter(kind: Hashable) -> TypeAdapter[Any]:
    return TypeAdapter(cast("Any", kind))


class Request:
    """One request: the parts of its path, its query and its body."""

    def __init__(self, parts: dict[str, str], query: dict[str, str], body: bytes) -> None:
        self.parts = parts
        self.query = query
        self._body = body

    def __getitem__(self, part: str) -> str:
        return self.parts[part]

    @property
    def collection(self) -> str:
        """The collection or alias in the path."""
        return self.parts["collection"]

    def body(self, kind: type[T]) -> T:
        """The body as one of qdrant-client's models."""
        if len(self._body) > MAX_BODY_BYTES:
            raise ApiError(
                400,
                f"JSON payload ({len(self._body)} bytes) is larger than allowed "
                f"(limit: {MAX_BODY_BYTES} bytes).",
            )
        try:
            return cast("T", _adapter(cast("Hashable", kind)).validate_json(self._body or b"null"))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise ApiError(400, f"Format error in JSON body: {place}: {first['msg']}") from error


Handler = Callable[[Request], Any]


class Api:
    """Requests in, results out: `handle` is what the HTTP server calls.

    Parameters
    ----------
    engine
        The engine behind it; every call is made under one lock, as it is not thread-safe.
    settings_path
        Where the settings of collections that the engine does not keep are stored; `None` for
        memory.
    """

    def __init__(self, engine: QdrantLocal, settings_path: Path | None = None) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._operations = itertools.count(1)
        self._settings_path = settings_path
        self._settings: dict[str, dict[str, Any]] = {}
        if settings_path is not None and settings_path.exists():
            self._settings = json.loads(settings_path.read_text())
            for name, settings in self._settings.items():
                for field in settings["payload_schema"]:
                    self._collection(name).payload.index_field(field)
        self._routes: list[tuple[str, re.Pattern[str], Handler]] = [
            (method, re.compile("/?" + re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", path) + "/?"), handler)
            for method, path, handler in self._table()
        ]

    def close(self) -> None:
        """Close the engine."""
        with self._lock:
            self._engine.close()

    def handle(self, method: str, path: str, query: dict[str, str], body: bytes) -> Any:
        """The result of one request; raises `ApiError` for any answer but success.

        Parameters
        ----------
        method, path, query, body
            Of the request; the path still percent-encoded.
        """
        others = False
        for wanted, pattern, handler in self._routes:
            match = pattern.fullmatch(path)
            if match is None:
                continue
            if wanted != method:
                others = True
                continue
            request = Request({k: unquote(v) for k, v in match.groupdict().items()}, query, body)
            with self._lock:
                return self._call(handler, request)
        raise ApiError(405 if others else 404, "")

    def _table(self) -> list[tuple[str, str, Handler]]:
        collection = "collections/{collection}"
        points = f"{collection}/points"
        return [
            ("GET", "collections", lambda _: self._engine.get_collections()),
            ("GET", "aliases", lambda _: self._engine.get_aliases()),
            ("POST", "collections/aliases", self._change_aliases),
            ("GET", collection, self._get_collection),
            ("PUT", collection, self._create_collection),
            ("PATCH", collection, self._update_collection),
            ("DELETE", collection, self._delete_collection),
            ("GET", f"{collection}/exists", self._exists),
            ("GET", f"{collection}/aliases", self._collection_aliases),
            ("PUT", f"{collection}/index", self._create_index),
            ("DELETE", f"{collection}/index/{{field}}", self._delete_index),
            ("POST", f"{collection}/facet", self._facet),
            ("PUT", points, self._upsert),
            ("POST", points, self._retrieve),
            ("GET", f"{points}/{{id}}", self._get_point),
            ("POST", f"{points}/delete", self._delete_points),
            ("POST", f"{points}/batch", self._batch),
            ("POST", f"{points}/payload", self._payload(models.SetPayloadOperation)),
            ("PUT", f"{points}/payload", self._payload(models.OverwritePayloadOperation)),
            ("POST", f"{points}/payload/delete", self._payload(models.DeletePayloadOperation)),
            ("POST", f"{points}/payload/clear", self._payload(models.ClearPayloadOperation)),
            ("PUT", f"{points}/vectors", self._payload(models.UpdateVectorsOperation)),
            ("POST", f"{points}/vectors/delete", self._payload(models.DeleteVectorsOperation)),
            ("POST", f"{points}/scroll", self._scroll),
            ("POST", f"{points}/count", self._count),
            ("POST", f"{points}/query", self._query),
            ("POST", f"{points}/query/batch", self._query_batch),
            ("POST", f"{points}/query/groups", self._query_groups),
        ]

    def _call(self, handler: Handler, request: Request) -> Any:
        try:
            return handler(request)
        except ApiError:
            raise
        except KeyError as error:
            raise ApiError(404, f"Not found: No point with id {error.args[0]} found") from error
        except NotImplementedError as error:
            raise ApiError(501, f"the stand-in cannot do this: {error}") from error
        except (ValueError, TypeError) as error:
            _refuse(str(error), error)

    def _name(self, name: str) -> str:
        """The collection that a name, which may be an alias, stands for."""
        return self._engine.aliases.get(name, name)

    def _collection(self, name: str) -> IndexedCollection:
        name = self._name(name)
        if name not in self._engine.collections:
            raise ApiError(404, f"Not found: Collection `{name}` doesn't exist!")
        return cast("IndexedCollection", self._engine.collections[name])

    def _settings_of(self, name: str) -> dict[str, Any]:
        empty: dict[str, Any] = {"config": {}, "params": {}, "payload_schema": {}}
        return self._settings.setdefault(self._name(name), empty)

    def _save(self) -> None:
        if self._settings_path is not None:
            part = self._settings_path.with_suffix(".part")
            part.write_text(json.dumps(self._settings))
            part.replace(self._settings_path)

    def _get_collection(self, request: Request) -> Any:
        collection = self._collection(request.collection)
        settings = self._settings_of(request.collection)
        info = collection.info().model_dump(mode="json")
        info["config"]["params"] |= PARAMS | settings["params"]
        for section, values in settings["config"].items():
            name = "optimizer_config" if section == "optimizers_config" else section
            info["config"][name] = {**(info["config"].get(name) or {}), **values}
        info["payload_schema"] = {
            field: {**schema, "points": collection.points_having(field)}
            for field, schema in settings["payload_schema"].items()
        }
        return info

    def _exists(self, request: Request) -> Any:
        return {"exists": self._engine.collection_exists(request.collection)}

    def _create_collection(self, request: Request) -> Any:
        name = request.collection
        body = request.body(models.CreateCollection)
        if name in self._engine.collections:
            raise ApiError(409, f"Wrong input: Collection `{name}` already exists!")
        if name in self._engine.aliases:
            raise ApiError(
                400,
                f"Wrong input: Can't create collection with name {name}. "
                "Alias with the same name already exists",
            )
        self._engine.create_collection(
            name,
            cast("Any", body.vectors),
            body.sparse_vectors,
            metadata=body.metadata,
        )
        self._settings.pop(name, None)
        given = body.model_dump(mode="json", exclude_none=True)
        settings = self._settings_of(name)
        settings["config"] = {key: given[key] for key in CONFIG_SECTIONS if key in given}
        settings["params"] = {key: given[key] for key in PARAMS if key in given}
        self._save()
        return True

    def _update_collection(self, request: Request) -> Any:
        collection = self._collection(request.collection)
        body = request.body(models.UpdateCollection)
        self._engine.update_collection(
            request.collection, body.sparse_vectors, body.metadata, body.vectors
        )
        vectors = collection.config.vectors
        for name, diff in (body.vectors or {}).items():
            params = vectors.get(name) if isinstance(vectors, dict) else vectors
            for key, value in diff.model_dump(exclude_none=True).items():
                setattr(params, key, value)
        settings = self._settings_of(request.collection)
        given = body.model_dump(mode="json", exclude_none=True)
        for section in CONFIG_SECTIONS:
            if isinstance(given.get(section), dict):
                settings["config"].setdefault(section, {}).update(given[section])
        settings["params"] |= given.get("params", {})
        self._save()
        return True

    def _delete_collection(self, request: Request) -> Any:
        existed = self._engine.delete_collection(request.collection)
        self._settings.pop(request.collection, None)
        self._save()
        return existed

    def _change_aliases(self, request: Request) -> Any:
        for action in (body := request.body(models.ChangeAliasesOperation)).actions:
            if isinstance(action, models.CreateAliasOperation):
                target, alias = action.create_alias.collection_name, action.create_alias.alias_name
                if target not in self._engine.collections:
                    raise ApiError(404, f"Not found: Collection `{target}` doesn't exist!")
                if alias in self._engine.collections:
                    raise ApiError(409, f"Wrong input: Collection `{alias}` already exists!")
            if isinstance(action, models.RenameAliasOperation):
                alias = action.rename_alias.old_alias_name
                if alias not in self._engine.aliases:
                    raise ApiError(404, f"Not found: Alias {alias} does not exists!")
        return self._engine.update_collection_aliases(body.actions)

    def _collection_aliases(self, request: Request) -> Any:
        return self._engine.get_collection_aliases(request.collection)

    def _create_index(self, request: Request) -> Any:
        collection = self._collection(request.collection)
        body = request.body(models.CreateFieldIndex)
        if body.field_schema is None:
            raise ApiError(
                400,
                "Wrong input: Unable to infer type for the field "
                f"'{body.field_name}'. Please specify `field_type`",
            )
        collection.create_payload_index(body.field_name, cast("Any", body.field_schema))
        collection.payload.index_field(body.field_name)
        params = None
        kind = body.field_schema
        if not isinstance(kind, str):
            params = kind.model_dump(mode="json", exclude_none=True)
            kind = params["type"]
        schema = {"data_type": str(kind), "params": params}
        self._settings_of(request.collection)["payload_schema"][body.field_name] = schema
        self._save()
        return self._updated(request)

    def _delete_index(self, request: Request) -> Any:
        collection = self._collection(request.collection)
        collection.delete_payload_index(request["field"])
        collection.payload.unindex_field(request["field"])
        self._settings_of(request.collection)["payload_schema"].pop(request["field"], None)
        self._save()
        return self._updated(request)

    def _indexed(self, request: Request, field: str, types: set[str]) -> bool:
        schema = self._settings_of(request.collection)["payload_schema"].get(field)
        return schema is not None and schema["data_type"] in types

    def _updated(self, request: Request) -> Any:
        # Without `wait` a real server answers before the write is seen; here it is seen already.
        status = "completed" if request.query.get("wait") == "true" else "acknowledged"
        return {"operation_id": next(self._operations), "status": status}

    def _upsert(self, request: Request) -> Any:
        collection = self._collection(request.collection)
        body = request.body(cast("type[Any]", models.PointInsertOperations))
        collection.upsert(
            body.batch if isinstance(body, models.PointsBatch) else body.points,
            update_filter=body.update_filter,
            update_mode=body.update_mode,
        )
        return self._updated(request)

    def _delete_points(self, request: Request) -> Any:
        collection = self._collection(request.collection)
        collection.delete(request.body(cast("type[Any]", models.PointsSelector)))
        return self._updated(request)

    def _batch(self, request: Request) -> Any:
        collection = self._collection(request.collection)
        operations = request.body(models.UpdateOperations).operations
        collection.batch_update_points(operations)
        return [self._updated(request) for _ in operations]

    def _payload(self, operation: Any) -> Handler:
        """Answers a request by the batch operation that has the request's body as its one field."""
        ((name, field),) = operation.model_fields.items()

        def handler(request: Request) -> Any:
            collection = self._collection(request.collection)
            body = request.body(field.annotation)
            collection.batch_update_points([operation(**{name: body})])
            return self._updated(request)

        return handler

    def _retrieve(self, request: Request) -> Any:
        collection = self._collection(request.collection)
        body = request.body(models.PointRequest)
        return collection.retrieve(
            body.ids, _default(body.with_payload, False), _default(body.with_vector, False)
        )

    def _get_point(self, request: Request) -> Any:
        collection = self._collection(request.collection)
        point_id: Any = int(request["id"]) if request["id"].isdigit() else request["id"]
        try:
            normalize_point_id(point_id, validate=True)
        except ValueError as error:
            message = f'Wrong input: Can not recognize "{point_id}" as point id'
            raise ApiError(400, message) from error
        found = collection.retrieve([point_id], True, True)
        if not found:
            raise ApiError(404, f"Not found: Point with id {point_id} does not exists!")
        return found[0]

    def _scroll(self, request: Request) -> Any:
        collection = self._collection(request.collection)
        body = request.body(models.ScrollRequest)
        order_by = body.order_by
        if isinstance(order_by, str):
            order_by = models.OrderBy(key=order_by)
        if order_by is not None and not self._indexed(request, order_by.key, RANGE_TYPES):
            raise ApiError(
                400,
                f"Wrong input: No range index for `order_by` key: `{order_by.key}`. "
                "Please create one to use `order_by`.",
            )
        limit = _default(body.limit, 10)
        if limit < 1:
            _refuse(f"limit value {limit} is invalid. Must be 1 or larger.", ValueError())
        points, next_offset = collection.scroll(
            scroll_filter=body.filter,
            limit=limit,
            order_by=order_by,
            offset=body.offset,
            with_payload=_default(body.with_payload, True),
            with_vectors=_default(body.with_vector, False),
        )
        return {"points": points, "next_page_offset": next_offset}

    def _count(self, request: Request) -> Any:
        return self._collection(request.collection).count(request.body(models.CountRequest).filter)

    def _facet(self, request: Request) -> Any:
        collection = self._collection(request.collection)
        body = request.body(models.FacetRequest)
        # Segments refuse, and a collection without points asks none.
        if not self._indexed(request, body.key, FACET_TYPES) and collection.count().count:
            raise ApiError(
                400,
                f"Wrong input: No appropriate index for faceting: `{body.key}`. "
                "Please create one to facet on this field.",
            )
        return collection.facet(body.key, body.filter, _default(body.limit, 10))

    def _query(self, request: Request) -> Any:
        self._collection(request.collection)
        body = request.body(models.QueryRequest)
        return self._engine.query_points(request.collection, **_query_arguments(body))

    def _query_batch(self, request: Request) -> Any:
        self._collection(request.collection)
        return [
            self._engine.query_points(request.collection, **_query_arguments(body))
            for body in request.body(models.QueryRequestBatch).searches
        ]

    def _query_groups(self, request: Request) -> Any:
        self._collection(request.collection)
        body = request.body(models.QueryGroupsRequest)
        arguments = _query_arguments(body)
        return self._engine.query_points_groups(
            request.collection,
            group_by=body.group_by,
            group_size=_default(body.group_size, 3),
            with_lookup=body.with_lookup,
            **arguments,
        )


def _query_arguments(body: models.QueryRequest | models.QueryGroupsRequest) -> dict[str, Any]:
    arguments = {
        "query": body.query,
        "prefetch": body.prefetch,
        "query_filter": body.filter,
        "search_params": body.params,
        "limit": _default(body.limit, 10),
        "with_payload": _default(body.with_payload, False),
        "with_vectors": _default(body.with_vector, False),
        "score_threshold": body.score_threshold,
        "using": body.using,
        "lookup_from": body.lookup_from,
    }
    if isinstance(body, models.QueryRequest):
        arguments["offset"] = body.offset
    return arguments


def _default(value: Any, default: Any) -> Any:
    return default if value is None else value


# What the local engine says, and what a server answers to the same request.
REFUSALS: list[tuple[str, int, str]] = [
    (r"Collection (.+) not found", 404, r"Not found: Collection `\1` doesn't exist!"),
    (r"Point (.+) is not found in the collection", 404, r"Not found: No point with id \1 found"),
    (
        r"(?:Dense |Sparse |)[Vv]ector (.*) is not found in the collection",
        400,
        r"Wrong input: Not existing vector name error: \1",
    ),
    (r".*Unnamed vectors are not allowed.*", 400, "Wrong input: Not existing vector name error: "),
    (
        r"shapes \(\d+,(\d+)\) and \((\d+),\) not aligned.*",
        400,
        r"Wrong input: Vector dimension error: expected dim: \1, got \2",
    ),
    (r"Empty update request", 400, "Bad request: Empty update request"),
    (
        r"No filter or points provided",
        400,
        "Format error in JSON body: Either list of point ids or filter must be provided",
    ),
    (
        r"Point id (.+) is not a valid UUID",
        400,
        (
            r"Format error in JSON body: value \1 is not a valid point ID, "
            "valid values are either an unsigned integer or a UUID"
        ),
    ),
    (r"(Collection name .*)", 422, r"Validation error in path parameters: [collection_name: \1]"),
    (r"(.* is invalid\. Must be .*)", 422, r"Validation error in JSON body: [\1]"),
    (r"(Wrong input: .*)", 400, r"\1"),
    (r"(.*)", 400, r"Wrong input: \1"),
]


def _refuse(message: str, cause: Exception) -> NoReturn:
    """Raise what a server answers where the local engine says no in its own words."""
    for said, status, answer in REFUSALS:
        match = re.fullmatch(said, message, re.DOTALL)
        if match is not None:
            raise ApiError(status, match.expand(answer)) from cause
    raise AssertionError("the last pattern matches everything")
