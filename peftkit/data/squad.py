"""Finds the questions in SQuAD files: articles of paragraphs, each with questions and answers.

    {"data": [{"title": "Normans", "paragraphs": [{"context": "...", "qas": [
        {"id": "1", "question": "...", "answers": [{"text": "...", "answer_start": 34}],
         "is_impossible": false}]}]}]}

SQuAD 1.1 (Rajpurkar et al. 2016, arXiv:1606.05250), 2.0 with `is_impossible` (Rajpurkar et al.
2018, arXiv:1806.03822), XQuAD, CMRC 2018 and DRCD have this form.
"""

from __future__ import annotations

from typing import Any

TITLE = "title"
"""Column with the title of each question's article."""
OF_QUESTION = ("id", "question", "answers", "is_impossible")


def squad_rows(value: Any) -> list[Any] | None:
    """Returns a row for each question of a SQuAD document; None if a JSON value is none.

    A row has the columns of `OF_QUESTION` that the question has, its `context`, and the article's
    `title` if there is one. What is not an object where one is expected is returned as it is.
    """
    articles = value.get("data") if isinstance(value, dict) else value
    if not isinstance(articles, list) or not articles or not _is_article(articles[0]):
        return None
    rows: list[Any] = []
    for article in articles:
        if not _is_article(article):
            rows.append(article)
            continue
        title = {TITLE: article[TITLE]} if article.get(TITLE) else {}
        for paragraph in article["paragraphs"]:
            rows += _questions(paragraph, title)
    return rows


def _is_article(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("paragraphs"), list)


def _questions(paragraph: Any, title: dict[str, Any]) -> list[Any]:
    if not isinstance(paragraph, dict) or not isinstance(paragraph.get("qas"), list):
        return [paragraph]
    context = {"context": paragraph.get("context")}
    return [
        {**title, **{name: one[name] for name in OF_QUESTION if name in one}, **context}
        if isinstance(one, dict)
        else one
        for one in paragraph["qas"]
    ]
