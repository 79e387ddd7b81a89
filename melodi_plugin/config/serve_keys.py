"""The keys of `melodi serve`."""

from pydantic import BaseModel, Field

_GIB = 2**30


class ServeKeys(BaseModel):
  """Where a server listens, what it keeps, and its limits."""

  melodi_serve_host: str = Field(
    "127.0.0.1", description="Address that `melodi serve` listens at; 0.0.0.0 is every one."
  )
  melodi_serve_port: int = Field(
    8000, ge=0, lt=2**16, description="Port that `melodi serve` listens at; 0 takes a free one."
  )
  melodi_serve_hosts: str = Field(
    "",
    description="Names by which clients may call the server, joined by commas, beside those of "
    "this machine's loopback; '*' allows every one.",
  )
  melodi_serve_key_file: str = Field(
    "",
    description="File with the keys of clients, one per line; or set MELODI_API_KEY in the "
    "environment.  Every key sees only its own states.",
  )
  melodi_serve_model: str = Field(
    "", description="Name of the model in the protocol; by default the run_name of the config."
  )
  melodi_serve_folder: str = Field(
    "", description="Folder of what is kept: sessions, responses, memories; without it, nothing is."
  )
  melodi_serve_body_bytes: int = Field(
    64 * 2**20, gt=0, description="The largest body of a request."
  )
  melodi_serve_prompt_tokens: int = Field(
    4_000_000, gt=0, description="The most tokens of a prompt; a longer one is refused, never cut."
  )
  melodi_serve_max_tokens: int = Field(
    32_768, gt=0, description="The most tokens that a request may ask for."
  )
  melodi_serve_choices: int = Field(
    16, gt=0, description="The most texts that a request may ask for: prompts times n."
  )
  melodi_serve_queue_texts: int = Field(
    256, gt=0, description="Texts that may wait for a slot; more are refused with status 429."
  )
  melodi_serve_queue_tokens: int = Field(
    16_000_000, gt=0, description="Tokens of all prompts that wait."
  )
  melodi_serve_queue_seconds: float = Field(
    600.0, gt=0, description="A text that has waited so long is given up."
  )
  melodi_serve_request_seconds: float = Field(
    3600.0, gt=0, description="A text that has been read and written for so long is given up."
  )
  melodi_serve_drain_seconds: float = Field(
    30.0, ge=0, description="After SIGTERM, time for requests in progress to end."
  )
  melodi_serve_snapshot_bytes: int = Field(
    4 * _GIB,
    ge=0,
    description="Main memory for states after prompts and answers, so that what begins like an "
    "earlier text is not read again.",
  )
  melodi_serve_folder_bytes: int = Field(
    64 * _GIB, gt=0, description="Bytes of all states in melodi_serve_folder."
  )
  melodi_serve_sessions: int = Field(10_000, gt=0, description="The most sessions of all clients.")
  melodi_serve_days: float = Field(
    30.0, gt=0, description="States that nobody has used for so many days are deleted."
  )
