"""The image formats: which names and first bytes look like a picture, and which plugin of Pillow reads it.

One list for folders, shards, lists, queries and training. A picture that is not read here is in it all the
same, with the reason: it fails by name and is never passed over.
"""

import re
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

HEAD_BYTES = 512
"""So many first bytes tell what a file is."""


@dataclass(frozen=True)
class Format:
    """One image format.

    Attributes:
        name: What it is called.
        extensions: Endings of file names, in lower case and without the dot.
        magic: What its first bytes match.
        plugin: Module and class that open it; empty where nothing here does.
        remedy: What to do where it is not read.
        is_telling: Whether whatever matches `magic` is such a picture, under any name. Else a text or a table
            of numbers may match, too.
    """

    name: str
    extensions: tuple[str, ...]
    magic: re.Pattern[bytes]
    plugin: str
    remedy: str
    is_telling: bool = True

    def opener(self) -> "type[ImageFile] | None":
        """Pillow's class for it, None where there is none."""
        module, _, name = self.plugin.partition(":")
        try:
            return getattr(import_module(module), name) if module else None
        except ImportError:
            return None


def _format(
    name: str,
    extensions: str,
    magic: bytes,
    plugin: str = "",
    *,
    remedy: str = "save it as PNG or JPEG",
    is_telling: bool = True,
) -> Format:
    pattern = re.compile(magic, re.DOTALL)
    return Format(name, tuple(extensions.split()), pattern, plugin, remedy, is_telling)


# Each plugin is called directly: a hostile EPS or PDF named .jpg reaches no decoder, and Image.open has a
# process-wide pixel limit, from half of which on it warns. The first that matches is taken.
FORMATS: tuple[Format, ...] = (
    _format("JPEG", "jpg jpeg jpe jfif jif mpo", rb"\xff\xd8\xff", "PIL.JpegImagePlugin:JpegImageFile"),
    _format("PNG", "png apng", rb"\x89PNG\r\n\x1a\n", "PIL.PngImagePlugin:PngImageFile"),
    _format("WebP", "webp", rb"RIFF....WEBP", "PIL.WebPImagePlugin:WebPImageFile"),
    _format("GIF", "gif", rb"GIF8[79]a", "PIL.GifImagePlugin:GifImageFile"),
    _format("BMP", "bmp", rb"BM....\0{4}...\0[\x0c-\x7c]\0\0\0", "PIL.BmpImagePlugin:BmpImageFile"),
    _format(
        "AVIF",
        "avif avifs",
        # The brand of the file itself, or of those it is compatible with.
        rb"....ftyp(?:avi[fs]|m[is][fs]1....(?:....){0,8}?avi[fs])",
        "PIL.AvifImagePlugin:AvifImageFile",
    ),
    _format(
        "HEIC",
        "heic heif heics heifs hif",
        rb"....ftyp(?:he[iv][cxms]|m[is][fs]1)",
        "pillow_heif:HeifImageFile",
        remedy="in the clone of matvit, pip install -e '.[heic]'",
    ),
    _format(
        "JPEG 2000",
        "jp2 j2k j2c jpc jpf jpx jpm",
        rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
        "PIL.Jpeg2KImagePlugin:Jpeg2KImageFile",
    ),
    _format("camera raw", "cr2 cr3", rb"II\*\0....CR|....ftypcrx ", remedy="develop it to JPEG or PNG"),
    _format("camera raw", "raf", rb"FUJIFILMCCD-RAW", remedy="develop it to JPEG or PNG"),
    _format("camera raw", "orf rw2", rb"II(?:R[OS]|U\0)|MMOR", remedy="develop it to JPEG or PNG"),
    # Of the TIFF family: what they are is told by their tags: see `decode`.
    _format("camera raw", "nef nrw arw sr2 srf dng pef srw", rb"(?!)", remedy="develop it to JPEG or PNG"),
    _format("TIFF", "tif tiff", rb"II[*+]\0|MM\0[*+]", "PIL.TiffImagePlugin:TiffImageFile"),
    _format("Photoshop", "psd", rb"8BPS\0\x01", "PIL.PsdImagePlugin:PsdImageFile"),
    _format("DDS", "dds", rb"DDS \x7c\0\0\0", "PIL.DdsImagePlugin:DdsImageFile"),
    _format("QOI", "qoi", rb"qoif", "PIL.QoiImagePlugin:QoiImageFile"),
    _format("ICNS", "icns", rb"icns", "PIL.IcnsImagePlugin:IcnsImageFile"),
    _format("ICO", "ico", rb"\0\0\x01\0[^\0]\0", "PIL.IcoImagePlugin:IcoImageFile", is_telling=False),
    _format("CUR", "cur", rb"\0\0\x02\0[^\0]\0", "PIL.CurImagePlugin:CurImageFile", is_telling=False),
    _format("SVG", "svg", rb"\s*(?:\xef\xbb\xbf)?(?:<\?xml[^>]*>\s*)?(?:<!--(?:(?!-->).)*-->\s*)*<svg"),
    _format("EPS", "eps epsf epsi", rb"%!PS-Adobe-[\d.]+ EPSF|\xc5\xd0\xd3\xc6"),
    _format("JPEG XL", "jxl", rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n", is_telling=False),
    _format("JPEG XR", "jxr wdp hdp", rb"II\xbc"),
    _format("OpenEXR", "exr", rb"v/1\x01"),
    _format("Radiance HDR", "hdr", rb"#\?(?:RADIANCE|RGBE)"),
    _format("BPG", "bpg", rb"BPG\xfb"),
    _format("GIMP", "xcf", rb"gimp xcf"),
    _format("Photoshop", "psb", rb"8BPS\0\x02"),
    _format("Windows metafile", "wmf emf", rb"\xd7\xcd\xc6\x9a\0\0|\x01\0\0\0.{36} EMF"),
    _format("PCX", "pcx", rb"\x0a[\0\x02\x03\x05]\x01[\x01\x02\x04\x08]", "PIL.PcxImagePlugin:PcxImageFile"),
    _format("SGI", "sgi rgb", rb"\x01\xda[\0\x01][\x01\x02]", "PIL.SgiImagePlugin:SgiImageFile"),
    _format("Sun raster", "ras", rb"\x59\xa6\x6a\x95", "PIL.SunImagePlugin:SunImageFile"),
    _format(
        "PNM",
        "ppm pgm pbm pnm pfm",
        rb"P(?:[1-6f][\s#]|F\s)",
        "PIL.PpmImagePlugin:PpmImageFile",
        is_telling=False,
    ),
    _format("PAM", "pam", rb"P7\n", is_telling=False),
    # Without any magic: type, depth and origin that go together. So it comes last.
    _format(
        "TGA",
        "tga",
        rb".(?:\0[\x02\x03\x0a\x0b]|\x01[\x01\x09]).{13}[\x01\x08\x0f\x10\x18\x20]",
        "PIL.TgaImagePlugin:TgaImageFile",
        is_telling=False,
    ),
)

EXTENSIONS = tuple(f".{extension}" for each in FORMATS for extension in each.extensions)
"""Endings of the names of pictures, in lower case."""


def is_image_name(name: str) -> bool:
    """Whether `name` ends as the name of a picture does."""
    return name.lower().endswith(EXTENSIONS)


def looks_like_image(head: bytes) -> bool:
    """Whether a file that begins like this is a picture, whatever its name.

    Args:
        head: Its first `HEAD_BYTES` bytes, or all of them.
    """
    return any(each.is_telling and each.magic.match(head) for each in FORMATS)


def format_of(data: bytes) -> Format | None:
    """The format of an encoded picture, None where it is none."""
    head = data[:HEAD_BYTES]
    return next((each for each in FORMATS if each.magic.match(head)), None)
