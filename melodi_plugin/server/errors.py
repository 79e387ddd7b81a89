"""What a request is refused for: one sentence, and the status of HTTP that says it to a program."""

KINDS = {
  400: "invalid_request_error",
  401: "invalid_api_key",
  404: "not_found_error",
  405: "method_not_allowed",
  409: "conflict_error",
  413: "request_too_large",
  429: "rate_limit_error",
  500: "server_error",
  503: "unavailable_error",
}


class Refused(Exception):  # noqa: N818, often nothing is wrong but the moment
  """A request that is not answered, or not to its end.

  Attributes:
    status: of HTTP; a key of KINDS.
    message: one sentence: what is wrong, and what to do.
    param: the field of the request that is wrong, if one is.
    code: for programs, finer than the status.
    retry_after: seconds after which it may be asked again.
  """

  def __init__(
    self,
    status: int,
    message: str,
    *,
    param: str | None = None,
    code: str | None = None,
    retry_after: int | None = None,
  ):
    super().__init__(message)
    self.status, self.message, self.param, self.code = status, message, param, code
    self.retry_after = retry_after

  @property
  def body(self) -> dict[str, dict[str, str | None]]:
    """The one form of all errors, that of OpenAI's protocol."""
    kind = KINDS[self.status]
    return {
      "error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}
    }
