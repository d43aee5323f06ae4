#!/usr/bin/env python3
"""Makes the folder of documents that questions.jsonl asks about, from Debian packages.

    corpus.py CACHE FOLDER      packages go to CACHE (kept, used again), the documents to FOLDER
    corpus.py --list            the documents, their packages and licences

Needs apt-get and dpkg-deb of a Debian or a relative of it, and no root. A package's recorded version is tried first, then
whichever version the machine's sources have; a document that differs from the recorded one is reported.
"""

import gzip
import hashlib
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

VERSIONS = {
    "base-files": "12.4+deb12u15",
    "debian-faq": "11.1",
    "debian-faq-de": "11.1",
    "debian-handbook": "11.20220922",
    "debian-kernel-handbook": "1.0.21",
    "debian-policy": "4.6.2.0",
    "debian-reference-de": "2.100",
    "developers-reference": "12.18",
    "developers-reference-de": "12.18",
    "doc-debian": "11.3+nmu1",
    "gimp-help-de": "2.10.34-2",
    "git-doc": "1:2.39.5-0+deb12u3",
    "harden-doc": "3.19+nmu1",
    "installation-guide-amd64": "20230508+deb12u1",
    "jargon-text": "4.4.7-4.1",
    "lilypond-doc-html-de": "2.24.1-2",
    "live-manual-html": "2:20151217.2",
    "miscfiles": "1.5+dfsg-4",
    "sword-text-web": "426.0-1",
}

VERBATIM = "verbatim copies"
POLICY = "usr/share/doc/debian-policy/policy.html/_sources/"
GIT = "usr/share/doc/git-doc/"
HANDBOOK = "usr/share/doc/debian-handbook/html/de-DE/"
LILYPOND = "usr/share/doc/lilypond/html/Documentation/"
LICENCES = "usr/share/common-licenses/"

# Document, package, path in it, licence. A path that ends in `.gz` is unpacked; `#` names a part, which PARTS cuts out.
DOCUMENTS = [
    ("gpl-2.txt", "base-files", LICENCES + "GPL-2", VERBATIM),
    ("gpl-3.txt", "base-files", LICENCES + "GPL-3", VERBATIM),
    ("lgpl-2.1.txt", "base-files", LICENCES + "LGPL-2.1", VERBATIM),
    ("gfdl-1.3.txt", "base-files", LICENCES + "GFDL-1.3", VERBATIM),
    ("apache-2.0.txt", "base-files", LICENCES + "Apache-2.0", VERBATIM),
    ("mpl-2.0.txt", "base-files", LICENCES + "MPL-2.0", VERBATIM),
    ("cc0-1.0.txt", "base-files", LICENCES + "CC0-1.0", VERBATIM),
    ("debian-constitution.txt", "doc-debian", "usr/share/doc/debian/constitution.txt.gz", "OPL-1.0"),
    ("bug-maintainers.txt", "doc-debian", "usr/share/doc/debian/bug-maint-info.txt.gz", "GPL"),
    ("debian-manifesto.txt", "doc-debian", "usr/share/doc/debian/debian-manifesto.gz", "OPL-1.0"),
    ("us-constitution.txt", "miscfiles", "usr/share/state/us-constitution.gz", "public domain"),
    ("us-declaration.txt", "miscfiles", "usr/share/state/us-declaration.gz", "public domain"),
    ("jargon-k-l.txt", "jargon-text", "usr/share/doc/jargon-text/jargon.txt.gz#K-L", "public domain"),
    ("mark.txt", "sword-text-web", "usr/share/sword/modules/texts/ztext/engWEB2015eb/nt#Mark", "public domain"),
    ("esther.txt", "sword-text-web", "usr/share/sword/modules/texts/ztext/engWEB2015eb/ot#Esth", "public domain"),
    ("git-rebase.txt", "git-doc", GIT + "git-rebase.txt", "GPL-2"),
    ("git-bisect.txt", "git-doc", GIT + "git-bisect.txt", "GPL-2"),
    ("githooks.txt", "git-doc", GIT + "githooks.txt", "GPL-2"),
    ("gitfaq.txt", "git-doc", GIT + "gitfaq.txt", "GPL-2"),
    ("policy-scripts.txt", "debian-policy", POLICY + "ch-maintainerscripts.rst.txt", "GPL-2+"),
    ("policy-relationships.txt", "debian-policy", POLICY + "ch-relationships.rst.txt", "GPL-2+"),
    ("policy-files.txt", "debian-policy", POLICY + "ch-files.rst.txt", "GPL-2+"),
    ("developers-packages.txt", "developers-reference", "usr/share/developers-reference/_sources/pkgs.rst.txt", "GPL-2+"),
    ("faq-choosing.html", "debian-faq", "usr/share/doc/debian/FAQ/choosing.en.html", VERBATIM),
    ("securing-questions.html", "harden-doc", "usr/share/doc/harden-doc/html/en-US/ch12.html", "GPL-2+"),
    ("kernel-tasks.html", "debian-kernel-handbook",
     "usr/share/doc/debian-kernel-handbook/kernel-handbook.html/ch-common-tasks.html", "GPL-2+"),
    ("kernel-bugs.html", "debian-kernel-handbook",
     "usr/share/doc/debian-kernel-handbook/kernel-handbook.html/ch-bugs.html", "GPL-2+"),
    ("installer-components.html", "installation-guide-amd64",
     "usr/share/doc/installation-guide-amd64/en/ch06s03.html", "GPL-2"),
    ("faq-pakete.html", "debian-faq-de", "usr/share/doc/debian/FAQ/de/pkg-basics.de.html", VERBATIM),
    ("faq-archive.html", "debian-faq-de", "usr/share/doc/debian/FAQ/de/ftparchives.de.html", VERBATIM),
    ("referenz-systemstart.html", "debian-reference-de", "usr/share/debian-reference/ch03.de.html", "GPL-2+"),
    ("referenz-netzwerk.html", "debian-reference-de", "usr/share/debian-reference/ch05.de.html", "GPL-2+"),
    ("entwickler-ressourcen.html", "developers-reference-de",
     "usr/share/developers-reference/de/resources.html", "GPL-2+"),
    ("handbuch-selinux.html", "debian-handbook", HANDBOOK + "sect.selinux.html", "GPL-2+ or CC-BY-SA-3.0"),
    ("handbuch-netzwerk.html", "debian-handbook", HANDBOOK + "sect.network-config.html", "GPL-2+ or CC-BY-SA-3.0"),
    ("handbuch-lebenszyklus.html", "debian-handbook", HANDBOOK + "sect.release-lifecycle.html", "GPL-2+ or CC-BY-SA-3.0"),
    ("gimp-glossar.html", "gimp-help-de", "usr/share/gimp/2.0/help/de/glossary.html", "GFDL-1.2+"),
    ("lilypond-takte.html", "lilypond-doc-html-de", LILYPOND + "notation/bars.de.html", "GFDL-1.3+"),
    ("lilypond-pausen.html", "lilypond-doc-html-de", LILYPOND + "notation/writing-rests.de.html", "GFDL-1.3+"),
    ("live-basics.html", "live-manual-html",
     "usr/share/doc/live-manual/html/live-manual/the-basics.en.html", "GPL-3+"),
]

# Of each document as the questions were written for it.
SUMS = {
    "gpl-2.txt": "8177f97513213526",
    "gpl-3.txt": "3972dc9744f6499f",
    "lgpl-2.1.txt": "dc626520dcd53a22",
    "gfdl-1.3.txt": "110535522396708c",
    "apache-2.0.txt": "cfc7749b96f63bd3",
    "mpl-2.0.txt": "fab3dd6bdab226f1",
    "cc0-1.0.txt": "a2010f343487d3f7",
    "debian-constitution.txt": "9722b279df1539e4",
    "bug-maintainers.txt": "c27cc88f3fa7e92b",
    "debian-manifesto.txt": "bf8a9e78e34f5750",
    "us-constitution.txt": "e398fe77f26f1ba6",
    "us-declaration.txt": "5901585a2ff579de",
    "jargon-k-l.txt": "06b30770d887422e",
    "mark.txt": "2ffa2b139026c8e3",
    "esther.txt": "f891e03ba8bbb782",
    "git-rebase.txt": "847cf210ff5e9a34",
    "git-bisect.txt": "d1c34dcbead1915c",
    "githooks.txt": "f455d7b0ee8dd10e",
    "gitfaq.txt": "75bd6d6e474f3086",
    "policy-scripts.txt": "26c14b38353d6499",
    "policy-relationships.txt": "e75122a5761b1fc8",
    "policy-files.txt": "629aef680e2811de",
    "developers-packages.txt": "737f05dbf47771d6",
    "faq-choosing.html": "145fcb9b64ab58d9",
    "securing-questions.html": "5b7f76480832d6f3",
    "kernel-tasks.html": "1d3a531cff7b8ae0",
    "kernel-bugs.html": "56a130109dee2735",
    "installer-components.html": "1d0e3eb1ad7ad9cf",
    "faq-pakete.html": "2fa8e1d1dc6beded",
    "faq-archive.html": "09ba6d97deac0e46",
    "referenz-systemstart.html": "ef12e4c6b436142e",
    "referenz-netzwerk.html": "dc4bf94ee335a249",
    "entwickler-ressourcen.html": "c9bb1487932330ee",
    "handbuch-selinux.html": "7dd754c2aa17d9e4",
    "handbuch-netzwerk.html": "06ef1f3e300f3f66",
    "handbuch-lebenszyklus.html": "22966f66bf293229",
    "gimp-glossar.html": "7131cc8fafe30b18",
    "lilypond-takte.html": "be9707f8a7f7e3d2",
    "lilypond-pausen.html": "b2ff0ad8aadff6e1",
    "live-basics.html": "28ca81cadaccc814",
}


def jargon(root, path):
    """The entries from the heading K up to the heading M, of the lexicon and not of its list."""
    lines = gzip.decompress((root / path).read_bytes()).decode("utf-8", "replace").split("\n")
    heads = {name: [at for at, line in enumerate(lines) if line.strip() == name] for name in ("K", "M")}
    return "\n".join(lines[heads["K"][-1]:heads["M"][-1]]).strip() + "\n"


def book(root, path, name):
    """One book of a compressed module for SWORD, without marks, notes and titles that are not of the text."""
    read = lambda end: (root / f"{path}.{end}").read_bytes()
    packed = read("bzz")
    for start, size, _ in struct.iter_unpack("<III", read("bzs")):
        text = zlib.decompress(packed[start:start + size]).decode()
        if re.match(rf'<div [^>]*osisID="{name}"', text):
            break
    text = re.sub(r"<note\b.*?</note>", " ", text, flags=re.S)
    text = re.sub(r'<chapter n="(\d+)"[^>]*sID[^>]*>', r"\n\nChapter \1\n\n", text)
    text = re.sub(r'<(div|lg|l|title)\b[^>]*>', "\n", text)
    text = re.sub(r"<[^>]+>", "", text)
    lines = [re.sub(r"[ \t]+", " ", line).strip() for line in text.split("\n")]
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(line for line in lines))
    return re.sub(r" +([,.;:?!])", r"\1", text).strip() + "\n"


def document(root, path):
    path, _, part = path.partition("#")
    if part == "K-L":
        return jargon(root, path).encode()
    if part:
        return book(root, path, part).encode()
    data = (root / path).read_bytes()
    return gzip.decompress(data) if path.endswith(".gz") else data


def unpacked(package, cache):
    """The folder with the package's files, fetched where they are not there yet."""
    root = cache / package
    if not root.exists():
        cache.mkdir(parents=True, exist_ok=True)
        for name in (f"{package}={VERSIONS[package]}", package):
            got = subprocess.run(["apt-get", "download", name], cwd=cache, capture_output=True, text=True)
            if got.returncode == 0:
                break
            print(f"{name}: {got.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        file = max(cache.glob(f"{package}_*.deb"), key=lambda file: file.stat().st_mtime)
        part = cache / f"{package}.part"
        subprocess.run(["dpkg-deb", "-x", file, part], check=True)
        part.rename(root)
    return root


def main():
    if sys.argv[1:] == ["--list"]:
        for name, package, path, licence in DOCUMENTS:
            print(f"{name}\t{package} {VERSIONS[package]}\t{licence}")
        return 0
    if len(sys.argv) != 3:
        print(__doc__.strip(), file=sys.stderr)
        return 2
    cache, folder = Path(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    differs = 0
    for name, package, path, _ in DOCUMENTS:
        data = document(unpacked(package, cache), path)
        (folder / name).write_bytes(data)
        found = hashlib.sha256(data).hexdigest()[:16]
        if SUMS.get(name) != found:
            differs += 1
            print(f"{name}: {found}, not {SUMS.get(name)}", file=sys.stderr)
    print(f"{len(DOCUMENTS)} documents, {differs} of them not as recorded")
    return differs > 0


if __name__ == "__main__":
    sys.exit(main())
