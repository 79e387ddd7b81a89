"""The page, as somebody uses it in a browser."""

import contextlib
import shutil
import socket
import threading

import pytest
import uvicorn
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from melodi_plugin.server.api.app import make_app
from melodi_plugin.server.api.guards import PAGE
from melodi_plugin.server.service import Access
from melodi_plugin.server.states.store import Store
from melodi_plugin.testing.http import RoleChat, call, tiny_service
from melodi_plugin.testing.slots import END, ByteTokenizer, FakeEngine, answer, load_row, save_row

DRIVER = shutil.which("chromedriver")
needs_browser = pytest.mark.skipif(
  DRIVER is None, reason="There is no chromedriver; install chromium and chromium-driver."
)
TOKENS = 24  # of an answer, at most


@pytest.mark.parametrize("path", PAGE)
def test_files_of_the_page_need_no_key_and_allow_no_code_of_others(service, path):
  service.access = Access(keys=["secret"])
  file = call(service, "GET", path)
  assert file.is_success and file.text
  assert file.headers["content-security-policy"].startswith("default-src 'self';")
  assert file.headers["content-type"].split(";")[0] in (
    "text/html",
    "text/css",
    "text/javascript",
    "image/svg+xml",
  )
  for other in ("http://", "https://", "style=", "innerHTML"):
    assert other not in file.text.replace("http://www.w3.org/2000/svg", "")


def test_what_the_page_knows_of_the_server_needs_a_key(service):
  about = call(service, "GET", "/page/about").json()
  assert about == {
    "model": "tiny",
    "chat": True,
    "memories": False,
    "sessions": False,
    "row_bytes": 1000,
  }
  service.access = Access(keys=["secret"])
  assert call(service, "GET", "/page/about").status_code == 401


# -- In a browser ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(request):
  options = webdriver.ChromeOptions()
  for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
    options.add_argument(argument)
  options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
  own = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
  request.addfinalizer(own.quit)  # noqa: PT021, jaxtyping wraps fixtures, and then none can yield
  return own


@contextlib.contextmanager
def served(**more):
  """Where a service is reached, and its engine."""
  engine = FakeEngine()
  service = tiny_service(engine)
  for name, value in more.items():
    setattr(service, name, value)
  with socket.create_server(("127.0.0.1", 0)) as bound:
    config = uvicorn.Config(make_app(service), log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([bound],))
    thread.start()
    try:
      yield f"http://127.0.0.1:{bound.getsockname()[1]}", engine
    finally:
      server.should_exit = True
      thread.join(20)
      service.scheduler.stop()


class Page:
  """What somebody sees and does."""

  def __init__(self, browser, address):
    self.browser = browser
    browser.get(address)
    browser.execute_script("sessionStorage.clear()")
    browser.get(address)
    self.set("temperature", "0")
    self.set("tokens", str(TOKENS))

  def one(self, css):
    return self.browser.find_element(By.CSS_SELECTOR, css)

  def all(self, css):
    # At once, because the page may change between two calls.
    script = "return [...document.querySelectorAll(arguments[0])].map((one) => one.innerText)"
    return self.browser.execute_script(script, css)

  def until(self, true):
    return WebDriverWait(self.browser, 10, 0.05).until(lambda _: true())

  def set(self, id, value):
    field = self.one(f"#{id}")
    field.clear()
    field.send_keys(value)

  def say(self, text):
    self.one("#text").send_keys(text, Keys.ENTER)

  def ask(self, text):
    """Says something; what is answered, once it is whole."""
    before = len(self.all(".written"))
    self.say(text)
    self.until(lambda: len(self.all(".written")) > before and not self.all(".writing"))
    return self.all(".written")[-1]

  def click(self, css):
    self.one(css).click()

  def add(self, path):
    """Gives a file to the page; waits until its memory is there."""
    before = len(self.memories())
    self.one("#file").send_keys(str(path))
    self.until(lambda: len(self.memories()) == before + 1)

  def memories(self):
    return [text.splitlines()[0].strip() for text in self.all(".memory label")][1:]

  def chosen(self):
    return self.one("[name=memory]:checked").get_property("value")

  def press(self, memory, button):
    self.click(f"button[title='{button} {memory}']")

  def numbers(self):
    return dict(zip(self.all("#numbers dt"), self.all("#numbers dd"), strict=True))

  def complaints(self):
    """What the browser has to say, but for refusals, which the page shows."""
    return [entry for entry in self.browser.get_log("browser") if entry["source"] != "network"]


def written(*said, count=TOKENS):
  """The answer to the last of these messages; users and model take turns."""
  roles = ("user", "assistant")
  messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(said)]
  return ByteTokenizer().decode(answer(RoleChat()(messages), count, end=END))


@needs_browser
def test_a_conversation_and_what_is_shown_of_it(browser):
  with served() as (address, _):
    page = Page(browser, address)
    assert (page.one("#model").text, page.numbers()["State"]) == ("tiny", "1.0 kB")
    assert page.one("#no_memories").is_displayed()
    said = "<img src=x onerror=alert(1)> é"
    first = page.ask(said)
    assert first == written(said)
    second = page.ask("two")
    assert second == written(said, first, "two")
    assert page.all(".said") == [said, "two"]
    prompt = len(f"u:{said}\na:{first}\nu:two\na:".encode())
    assert page.numbers()["Tokens read"] == str(prompt + len(second) + 1)  # and its end
    assert page.numbers()["Cached"].endswith(f" of {prompt}")
    assert page.numbers()["Cached"] != f"0 of {prompt}"
    assert page.numbers()["Speed"].endswith("tokens/s")
    browser.refresh()
    assert page.all(".written") == [first, second]
    page.set("temperature", "0")
    page.set("tokens", str(TOKENS))
    page.click("#remember")
    assert page.ask("three") == written("three")
    page.click("#remember")
    assert page.ask("four") == written(said, first, "two", second, "four")
    page.click("#fresh")
    assert page.all(".said") == []
    assert page.ask("two") == written("two")
    assert page.complaints() == []


@needs_browser
def test_a_model_without_a_chat_template_goes_on_with_the_text(browser):
  with served(chat=None) as (address, _):
    page, said = Page(browser, address), list(b"one")
    for text in ("one", "two"):
      said += text.encode() if text == "two" else b""
      told = ByteTokenizer().decode(answer(said, TOKENS, end=END))
      assert page.ask(text) == told
      said += told.encode()
    assert page.complaints() == []


@needs_browser
@pytest.mark.parametrize("by", ["button", "key"])
def test_an_answer_that_is_stopped_is_no_part_of_the_conversation(browser, by):
  with served() as (address, engine):
    page = Page(browser, address)
    first = page.ask("one")
    engine.seconds = 0.1
    page.say("two")
    page.until(lambda: len(page.all(".written")) == 2 and len(page.all(".written")[1]) > 2)
    if by == "button":
      page.click("#stop")
    else:
      page.one("#text").send_keys(Keys.ESCAPE)
    page.until(lambda: "Stopped" in "".join(page.all(".note")))
    assert written("one", first, "two").startswith(page.all(".written")[1])
    engine.seconds = 0
    assert page.ask("three") == written("one", first, "three")
    assert page.complaints() == []


@needs_browser
def test_errors_are_told_with_the_sentence_of_the_server(browser):
  with served() as (address, engine):
    page = Page(browser, address)
    page.set("tokens", "99999999")
    page.say("one")
    page.until(lambda: "max_completion_tokens" in page.one("#error").text)
    assert page.one("#text").get_property("value") == "one"
    page.set("tokens", str(TOKENS))
    engine.fails = RuntimeError("broken")
    page.one("#send").click()
    page.until(lambda: "fail" in page.one("#error").text)
    page.one("#send").click()
    page.until(lambda: page.all(".written"))
    assert not page.one("#error").is_displayed()
    assert page.complaints() == []


@needs_browser
def test_a_key_is_asked_for_and_forgotten_with_the_tab(browser):
  with served(access=Access(keys=["secret"])) as (address, _):
    page = Page(browser, address)
    page.until(lambda: page.one("#key").is_displayed())
    page.one("#key").send_keys("wrong", Keys.ENTER)
    page.until(lambda: "API key" in page.one("#error").text)
    page.one("#key").send_keys("secret", Keys.ENTER)
    page.until(lambda: page.one("#model").text == "tiny")
    assert not page.one("#key").is_displayed()
    assert page.ask("one") == written("one")
    assert "secret" not in browser.execute_script("return JSON.stringify(localStorage)")
    assert page.complaints() == []


@needs_browser
def test_memories_are_read_chosen_saved_and_deleted(browser, tmp_path):
  store = Store(str(tmp_path / "states"), save_row, load_row)
  text, saved = tmp_path / "A document.txt", tmp_path / "A-document.memory"
  text.write_text("Es war einmal é.")
  browser.execute_cdp_cmd(
    "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)}
  )
  with contextlib.closing(store), served(store=store) as (address, _):
    page = Page(browser, address)
    assert (page.memories(), page.chosen()) == ([], "")
    page.add(text)
    assert (page.memories(), page.chosen()) == (["A-document"], "A-document")
    ids = [*text.read_bytes(), *RoleChat()([{"role": "user", "content": "one"}])]
    first = answer(ids, TOKENS, end=END)
    assert page.ask("one") == ByteTokenizer().decode(first)
    new = RoleChat().after_answer([{"role": "user", "content": "two"}], first[-1])
    second = answer([*ids, *first, *new], TOKENS, end=END)
    assert page.ask("two") == ByteTokenizer().decode(second)
    assert page.numbers()["Cached"] == f"0 of {len(new)}"
    (session,) = store.all_named("session", "")
    assert page.numbers()["Tokens read"] == str(session.state.tokens)
    page.click("#remember")
    assert page.ask("two") == written("two")
    page.click("#remember")
    page.press("A-document", "Save")
    page.until(saved.exists)
    page.add(saved)
    assert page.memories() == ["A-document", "A-document-2"]
    assert page.chosen() == "A-document-2" and page.one("#later").is_displayed()
    page.press("A-document", "Delete")
    browser.switch_to.alert.accept()
    page.until(lambda: page.memories() == ["A-document-2"])
    third = RoleChat().after_answer([{"role": "user", "content": "three"}], second[-1])
    own = answer([*ids, *first, *new, *second, *third], TOKENS, end=END)
    assert page.ask("three") == ByteTokenizer().decode(own)
    page.click("#fresh")
    page.until(lambda: not store.all_named("session", ""))
    assert page.ask("one") == ByteTokenizer().decode(first)
    browser.refresh()
    page.until(lambda: page.memories())
    assert page.all(".said") == ["one"]
    store.forget("session", "", store.all_named("session", "")[0].name)
    browser.refresh()
    page.until(lambda: "any more" in "".join(page.all(".note")))
    assert page.all(".said") == []
    saved.write_bytes(b"broken")
    page.one("#file").send_keys(str(saved))
    page.until(lambda: "is not a memory file" in page.one("#error").text)
    assert page.complaints() == []
