"""Join pictures of the studio into the moving one of the README, docs/images/tour-light.gif and tour-dark.gif.

``make film``, after ``make shots``. Pillow comes with Streamlit.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

IMAGES = Path(__file__).parents[1] / "docs" / "images"
SCENES = (  # a picture, and what it shows
    ("data", "1  The data is checked: what would spoil a training, and a fix for each"),
    ("new-run", "2  Settings, and what the run will cost"),
    ("run", "3  The run: its curves, live"),
    ("playground", "4  Questions to the tuned model"),
    ("export", "5  An export, compared with the trained model"),
)
THEMES = {"light": ("#ffffff", "#1f2328"), "dark": ("#0d1117", "#f0f6fc")}
WIDTH, HEIGHT, CAPTION = 960, 600, 44
SECONDS = 2.6
COLOURS = 96


def scene(name: str, words: str, theme: str) -> Image.Image:
    """Return one picture with its caption above, cut to the size of all."""
    page, ink = THEMES[theme]
    frame = Image.new("RGB", (WIDTH, HEIGHT + CAPTION), page)
    with Image.open(IMAGES / f"{name}-{theme}.png") as picture:
        small = picture.convert("RGB").resize((WIDTH, round(picture.height * WIDTH / picture.width)))
    frame.paste(small.crop((0, 0, WIDTH, HEIGHT)), (0, CAPTION))
    ImageDraw.Draw(frame).text((16, 10), words, fill=ink, font=ImageFont.load_default(size=20))
    return frame.quantize(COLOURS)


def main() -> None:
    """Write both films."""
    for theme in THEMES:
        first, *others = [scene(name, words, theme) for name, words in SCENES]
        first.save(
            IMAGES / f"tour-{theme}.gif",
            save_all=True,
            append_images=others,
            duration=round(SECONDS * 1000),
            loop=0,
            optimize=True,
        )


if __name__ == "__main__":
    main()
