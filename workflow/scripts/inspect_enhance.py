"""Hear and see what enhancement does to training clips of one machine type: before, after and removed.

Whether a machine type goes on enhance.skip is a listener's decision; this shows what it rests on.
"""

from pathlib import Path

from firstshot import job


def main() -> None:
    parser = job.parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, metavar="SAFETENSORS")
    parser.add_argument("--audio", type=Path, required=True, metavar="ARROW", help="training clips as recorded")
    parser.add_argument("--page", type=Path, required=True, metavar="HTML", help="spectrograms and players")
    parser.add_argument("--files", type=Path, required=True, metavar="DIR", help="gets the wav and png files")
    args = job.parse(parser)
    inputs = {"model": args.model, "audio": args.audio}
    outputs = {"page": args.page, "files": args.files}
    with job.artefact(outputs, inputs=inputs, params=args.params, stored=False) as artefact:
        if not artefact.needed:
            return
        import numpy as np
        import soundfile

        from firstshot import enhance, page, report
        from firstshot.compute import torch_setup
        from firstshot.packed import PackedAudio

        device = torch_setup(args)
        audio = PackedAudio.open(args.audio)
        enhancer, kind = enhance.load_model(args.model, args.params)
        rows = np.unique(np.linspace(0, len(audio) - 1, args.params["clips"]).round().astype(int)).tolist()
        chosen = enhance.enhance(enhancer, kind, audio, device=device, precision=args.params["precision"], rows=rows)
        folder, rate, cards = artefact.path("files"), audio.sampling_rate, []
        folder.mkdir()
        for row, clip in zip(rows, chosen, strict=True):
            before, after = audio.wave(row), clip["samples"]
            picture = report.png(report.enhancement(before, after, rate))
            (folder / f"{clip['clip']}.png").write_bytes(picture)
            blocks = [page.picture(picture, f"spectrograms of {clip['clip']}")]
            for name, wave in {"before": before, "after": after, "removed": before - after}.items():
                soundfile.write(folder / f"{clip['clip']}.{name}.wav", wave, rate, subtype="FLOAT")
                blocks += [page.card(name, "", page.player(wave, rate, f"{clip['clip']}, {name}"))]
            cards.append(page.card(clip["clip"], clip["attributes"] or "", *blocks))
        extracts = {"clean": "the machine's sound", "noise": "its in-domain noise, which is then taken away"}[kind]
        how = (
            f"The network extracts {extracts}. If sounds of the machine are heard in what was removed, name the "
            "machine type under enhance.skip; its recordings are then used as they are. Players are brought to one "
            "loudness; the wav files keep the level."
        )
        section = page.Section(f"Enhancement of {audio.machine}", how, cards)
        artefact.path("page").write_text(page.render(f"{audio.machine}: before, after, removed", "", [section]))


if __name__ == "__main__":
    job.main(main)
