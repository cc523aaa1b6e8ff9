"""The page in a real browser, on a real server, by keyboard where a person could."""

from importlib.util import find_spec

import pytest
from browsing import CHROMIUM, a_browser, a_studio, explore

# tests/conftest.py says so at the end, in red
MISSING = [name for name in ("playwright", "axe_playwright_python") if find_spec(name) is None]
MISSING += [] if CHROMIUM else ["Chromium"]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"NO BROWSER: {', '.join(MISSING)} missing")
QUICK = {"Steps": "5", "Pictures": "4", "Directions": "2"}
LONG = 60_000  # ms; a shared machine may be slow, and then nothing is wrong with the page


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with a_studio(tmp_path_factory.mktemp("studio")) as found:
        yield found


@pytest.fixture(scope="module")
def chromium():
    with a_browser() as browser:
        yield browser


@pytest.fixture
def person(chromium, address):
    """Open rooms as a new person; at the end: no errors, and nothing asked of any other host."""
    asked, wrong, contexts = [], [], []

    def tab(room="", context=None, **options):
        if context is None:
            context = chromium.new_context(reduced_motion="reduce", **options)
            contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(LONG)
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.goto(f"{address}/#/{room}")
        page.wait_for_selector(".room:visible")
        return page

    def expected(page, words):
        """Take an error that the test asked for off the list."""
        wrong[:] = [text for text in wrong if words not in text]

    tab.expected = expected
    yield tab
    for context in contexts:
        context.close()
    assert not wrong
    elsewhere = [url for url in asked if not url.startswith((f"{address}/", "blob:", "data:"))]
    assert asked
    assert not elsewhere


def draw_a_mixture(page):
    """Ask for one picture of the mixture that the room begins with."""
    page.get_by_text("More", exact=True).locator("visible=true").click()
    page.get_by_label("Pictures", exact=True).locator("visible=true").select_option("1")
    page.get_by_role("button", name="Draw", exact=True).click()


def test_pictures_map_and_verdicts_come_while_a_search_runs_and_steer_the_next(person):
    page = person("explore")
    explore(page, "handbag", **QUICK)
    page.wait_for_selector(".cell img")
    # by keyboard alone: a box on the map, then less of it
    over = page.locator(".map .u-over")
    over.wait_for()
    page.get_by_role("button", name="Delete").wait_for()  # it is over
    for name in ("Pictures of direction 1", "Pictures of direction 2"):
        assert page.get_by_role("listbox", name=name).get_by_role("option").count() == 4
    assert page.get_by_role("listbox", name="Ordinary pictures").get_by_role("option").count() == 4
    over.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowUp")
    assert "ordinary" in page.locator("#say").inner_text()
    page.get_by_role("button", name="Less of this").click()
    row = page.get_by_role("listbox", name="Pictures of direction 1")
    row.get_by_role("option").first.focus()
    page.keyboard.press("Space")
    page.get_by_role("button", name="Less of this").click()
    chips = page.get_by_role("list", name="Steering").get_by_role("listitem")
    assert [chip.inner_text().split("\n")[0] for chip in chips.all()] == [
        "Less of a region of handbag", "Unlike handbag 1",
    ]  # fmt: skip
    page.get_by_text("The map as a table").click()
    page.get_by_role("table").get_by_role("row").nth(1).wait_for()
    # a reload comes back to the same run
    page.reload()
    assert page.get_by_role("heading", name="handbag").inner_text() == "handbag"
    page.get_by_role("button", name="Delete").wait_for()


def test_a_method_that_does_not_search_is_asked_for_nothing_of_the_search(person):
    page = person("explore")
    explore(page, "owl", Steps="5", Pictures="4", Method="raw-prompt")
    page.get_by_role("button", name="Delete").wait_for()
    found = page.get_by_role("listbox", name="Pictures found")
    assert found.get_by_role("option").count() == 4
    # what was asked is filled in again, and a picture has variations
    page.get_by_label("Explore", exact=True).fill("pig")
    page.get_by_label("Asked before", exact=True).select_option(label="owl · raw-prompt · seed 0")
    assert page.get_by_label("Explore", exact=True).input_value() == "owl"
    found.get_by_role("option").first.click()
    page.get_by_role("button", name="Variations").click()
    page.get_by_role("heading", name="variations of owl 1").wait_for()
    page.locator(".run-actions:visible").get_by_role("button", name="Delete").wait_for()


def test_whoever_comes_first_sees_an_example_is_shown_around_and_may_be_surprised(person):
    page = person("explore")
    assert page.locator(".example img").count() == 12
    page.get_by_role("button", name="Show me around").click()
    for _ in range(4):
        page.get_by_role("button", name="Next").click()
    page.get_by_role("button", name="Done").click()
    assert page.locator(".tour").count() == 0
    page.locator("#main").focus()
    page.keyboard.press("?")
    page.get_by_role("dialog", name="Keys").wait_for()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Surprise me").click()
    page.wait_for_selector(".cell img")
    assert page.get_by_label("Explore", exact=True).input_value()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Resume").wait_for()


def test_sliders_sum_to_one_by_keyboard_and_the_picture_follows_the_newest(person):
    page = person("fuse")
    page.get_by_role("button", name="+ Another word").click()
    sliders = page.locator(".mixer input[type=range]")
    canvas = page.locator(".follower canvas")

    def shares():
        return [int(one.input_value()) for one in sliders.all()]

    sliders.nth(0).focus()
    for key in ["ArrowRight"] * 4 + ["PageUp", "End", "ArrowLeft", "Home", "ArrowRight", "PageUp"]:
        page.keyboard.press(key)
        assert sum(shares()) == 100
    page.get_by_role("button", name="Hold").nth(1).click()
    held = shares()[1]
    sliders.nth(0).focus()
    page.keyboard.press("PageUp")
    assert sum(shares()) == 100
    assert shares()[1] == held
    told = page.locator(".follow-caption").inner_text()
    page.wait_for_selector(f'.follower canvas[aria-label="{told}"]')
    drawn = (
        "one => new Set(one.getContext('2d').getImageData(0, 0, one.width, one.height).data).size"
    )
    assert canvas.evaluate(drawn) > 16  # a picture, not a blank


def test_tabs_of_a_person_tell_each_other_and_nobody_else(person):
    page = person("fuse")
    other = person("queue", context=page.context)
    stranger = person("queue")
    draw_a_mixture(page)
    row = other.get_by_role("list", name="Jobs").get_by_role("listitem")
    row.wait_for()
    other.wait_for_selector(".state.finished")  # with no reload
    assert stranger.get_by_role("list", name="Jobs").get_by_role("listitem").count() == 0


def test_what_was_deleted_comes_back(person):
    page = person("fuse")
    draw_a_mixture(page)
    page.get_by_role("button", name="Delete").wait_for()
    page.get_by_role("link", name="Shelf", exact=True).click()
    page.locator(".card").get_by_role("button", name="Delete").click()
    page.get_by_text("Nothing here yet.").wait_for()
    page.get_by_role("button", name="Undo").click()
    page.locator(".card").wait_for()
    assert page.locator(".card").count() == 1
    # several at once, and then for good
    page.get_by_role("checkbox").first.check()
    page.get_by_role("button", name="Delete 1").click()
    page.get_by_text("Nothing here yet.").wait_for()
    page.get_by_label("Which").select_option("deleted")
    page.get_by_role("button", name="Empty the trash").click()
    page.get_by_role("button", name="Delete for good").click()
    page.get_by_text("Nothing fits.").wait_for()


def test_what_somebody_likes_is_kept_and_too_little_of_it_is_told(person):
    page = person("fuse")
    draw_a_mixture(page)
    page.get_by_role("button", name="Delete").wait_for()
    page.get_by_role("listbox", name="Pictures found").get_by_role("option").first.click()
    like = page.get_by_role("button", name="★ Like")
    with page.expect_response(lambda answer: answer.url.endswith("/mark")):
        like.click()
    page.reload()
    page.get_by_role("button", name="Delete").wait_for()
    page.get_by_role("listbox", name="Pictures found").get_by_role("option").first.click()
    page.wait_for_selector('button[aria-pressed="true"]:has-text("Like")')
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Explore", exact=True).click()
    page.get_by_label("Choose by what I like and dislike").check()
    page.get_by_label("Explore", exact=True).fill("owl")
    with page.expect_response(lambda answer: answer.status == 422):
        page.get_by_role("button", name="Go", exact=True).click()
    page.get_by_text("like or dislike a few more").wait_for()
    person.expected(page, "422")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 400)])
def test_every_room_is_named_readable_and_fits(person, scheme, width):
    from axe_playwright_python.sync_playwright import Axe

    page = person("explore", color_scheme=scheme, viewport={"width": width, "height": 900})
    for room in (
        "explore",
        "fuse",
        "fuse?mode=triangle",
        "fuse?mode=dice",
        "paint",
        "shelf",
        "queue",
    ):
        page.goto(page.url.split("#")[0] + f"#/{room}")
        page.wait_for_timeout(300)
        wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, f"{room} is {wide} px wider than the window"
        found = Axe().run(page).response["violations"]
        told = [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found]
        assert not told, room
