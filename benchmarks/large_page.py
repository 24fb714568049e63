"""How large the page of 1,203 classes and 10 models is, and how long Chromium takes to open it.

    python -m benchmarks.large_page EVALUATION --classes 1203 --models 10

EVALUATION is a finished one: its rows are repeated, and each of its classes stands for many.
"""

import base64
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from eval_job.report.page import rebuild_page
from schemas.evaluation import REPORT, EvalReport, EvaluatedModel
from stages.storage import write_text

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")


def main(
    evaluation: Annotated[Path, typer.Argument(help="folder of a finished evaluation")],
    classes: int = 1203,
    models: int = 10,
    student: Annotated[list[Path] | None, typer.Option(help="what it evaluated")] = None,
    calibration_set: Path | None = None,
    pdf: Annotated[Path | None, typer.Option(help="print the page here, too")] = None,
) -> None:
    report = enlarged(EvalReport.read(evaluation / REPORT), classes, models)
    with tempfile.TemporaryDirectory() as folder:
        large = Path(folder) / "eval"
        shutil.copytree(evaluation / "samples", large / "samples")
        write_text(large / REPORT, report.to_json())
        page = large / "report.html"
        rebuild_page(large, student or [], calibration_set, page)
        print(f"report.json {(large / REPORT).stat().st_size / 1e6:.2f} MB, page {page.stat().st_size / 1e6:.2f} MB")
        opened(page, pdf)


def enlarged(report: EvalReport, classes: int, models: int) -> EvalReport:
    """The report with so many classes and models, all with the figures that were measured."""
    known = list(report.models[0].per_class)
    names = {f"class {n} ({known[n % len(known)]})": known[n % len(known)] for n in range(classes)}

    def grown(model: EvaluatedModel) -> EvaluatedModel:
        deployed = model.deployed
        if deployed is not None:
            found = {new: deployed.per_class[old] for new, old in names.items() if old in deployed.per_class}
            deployed = deployed.model_copy(update={"per_class": found})
        per_class = {new: model.per_class[old] for new, old in names.items()}
        return model.model_copy(update={"per_class": per_class, "deployed": deployed})

    rows = [grown(model) for model in report.models]
    more = [rows[-1].model_copy(update={"name": f"{rows[-1].name} #{n}"}) for n in range(2, 2 + models - len(rows))]
    labels = {new: report.class_labels[old] for new, old in names.items() if old in report.class_labels}
    return report.model_copy(update={"models": (*rows, *more), "class_labels": labels})


def opened(page: Path, pdf: Path | None) -> None:
    """Open the page three times in headless Chromium, and say what the browser measured."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for flag in FLAGS:
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    for _ in range(3):
        browser.get(page.as_uri())
        load = browser.execute_script("return performance.getEntriesByType('navigation')[0].loadEventEnd")
        print(f"loaded in {load:.0f} ms, {browser.execute_script('return document.all.length'):,} elements")
    print(f"console: {browser.get_log('browser')}")
    if pdf is not None:
        printed = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True, "preferCSSPageSize": True})
        pdf.write_bytes(base64.b64decode(printed["data"]))
    browser.quit()


if __name__ == "__main__":
    typer.run(main)
