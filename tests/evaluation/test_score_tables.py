"""Scores as tables; that of JGLUE has its test beside `clean_scores`."""

from jpllm.evaluation import score_tables


def test_fine_tuned_rows_stand_beside_published_ones():
    row = {"task": "jsts", "metric": "spearman", "value": 0.5, "standard_deviation": 0.0125, "standard_error": 0.02}
    row |= {"chance": 0.0, "majority": 0.0, "is_constant": False, "n": 1457, "num_seeds": 3, "learning_rate": 2e-5}
    row |= {"max_train_rows": None, "trainable": "all", "scored": "validation file", "epochs": 3.0}
    share = {"metric": "acc", "standard_deviation": None, "chance": 0.5, "majority": 0.8, "is_constant": True}
    rows = [
        row,
        {**row, **share, "task": "jcola", "value": 0.75, "max_train_rows": 500, "trainable": "head", "num_cut": 7},
    ]
    head, (first, second) = score_tables.finetuned_table(rows)
    published = ["Tohoku BERT base, published", "Waseda RoBERTa base, published", "human, published"]
    assert head[10:13] == published
    assert first == [
        *("jsts", "spearman", "0.500 ± 0.013", "3", "2e-05", "3", "1,457", "0.020", "0.000", "0.000"),
        *("0.868", "0.873", "0.861", ""),
    ]
    remarks = "trained on 500 rows, only head trained, 7 rows cut, nearly always one answer"
    assert second[2:4] + second[8:] == ["75.0 %", "3", "50.0 %", "80.0 %", "", "", "", remarks]
