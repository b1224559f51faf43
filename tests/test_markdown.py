from jpllm import markdown


def test_a_table_shows_texts_as_they_are():
    found = markdown.table(["", "a|b"], [["<script>", "x\ny"], ["*_`#~$[]\\", ""]])
    assert found == ("|  | a\\|b |\n| --- | --- |\n| \\<script\\> | x<br>y |\n| \\*\\_\\`\\#\\~\\$\\[\\]\\\\ |  |\n")


def test_an_entity_is_shown_as_it_was_written():
    assert markdown.escaped("AT&T &lt;b&gt; &#35;") == "AT&amp;T &amp;lt;b&amp;gt; &amp;\\#35;"
