# SPDX-License-Identifier: Apache-2.0
"""Around every call of the kubelet: log context, timing, errors to gRPC errors. Knows no answer.

The text of an error is what `kubectl describe pod` shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import grpc

from agents.errors import AgentError
from agents.logs import get_logger, log_context
from gpu_plugin import rejection
from gpu_plugin.metrics import Counters
from gpu_plugin.placement import Refused


class RpcBoundary(grpc.ServerInterceptor):  # type: ignore[misc, unused-ignore] # untyped base
    """Around every call: log context (pool threads have none of ours), and errors to gRPC
    errors.
    """

    def __init__(
        self, resource: str, counters: Counters, is_new: Callable[[], bool] = bool
    ) -> None:
        self._resource, self._counters, self._is_new = resource, counters, is_new

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        call = handler_call_details.method.rpartition("/")[2]
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(
                self._unary(call, handler.unary_unary),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        assert handler.unary_stream is not None, "the protocol has no other kinds"
        return grpc.unary_stream_rpc_method_handler(
            self._stream(call, handler.unary_stream),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _unary(
        self, call: str, inner: Callable[[Any, grpc.ServicerContext], Any]
    ) -> Callable[[Any, grpc.ServicerContext], Any]:
        def guarded(request: Any, context: grpc.ServicerContext) -> Any:
            timed = self._counters.call_seconds.labels(self._resource, call)
            with log_context(resource=self._resource, call=call), timed.time():
                try:
                    return inner(request, context)
                except Exception as error:  # noqa: BLE001 -- the boundary: nothing passes it
                    self._abort(context, error)

        return guarded

    def _stream(
        self, call: str, inner: Callable[[Any, grpc.ServicerContext], Iterator[Any]]
    ) -> Callable[[Any, grpc.ServicerContext], Iterator[Any]]:
        def guarded(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            with log_context(resource=self._resource, call=call):
                try:
                    yield from inner(request, context)
                except Exception as error:  # noqa: BLE001 -- the boundary: nothing passes it
                    self._abort(context, error)

        return guarded

    def _abort(self, context: grpc.ServicerContext, error: Exception) -> NoReturn:
        """End the call with the error's own words; log and count it, once."""
        log = get_logger()
        match error:
            case Refused():
                code, reason = grpc.StatusCode.FAILED_PRECONDITION, error.reason
                text = rejection.description(self._resource, error)
                log.info("admission rejected", reason=reason, error=text)
                if self._is_new():
                    self._counters.late_rejections.labels(self._resource).inc()
            case AgentError():
                code, reason = grpc.StatusCode.UNAVAILABLE, "state"
                text = rejection.description(self._resource, error)
                log.error("admission rejected", reason=reason, error=text)
            case _:
                code, reason = grpc.StatusCode.INTERNAL, "internal"
                text = f"{self._resource}: internal error of nodeshare; its log has the details"
                log.error("call failed", exc_info=error)
        self._counters.rejections.labels(self._resource, reason).inc()
        context.abort(code, text)
