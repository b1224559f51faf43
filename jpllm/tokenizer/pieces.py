"""Tell what the pieces of a tokenizer spell in characters and bytes, and which of them are Japanese."""

from __future__ import annotations

import codecs
import re
import typing

if typing.TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# CJK punctuation and kana; phonetic extensions, enclosed and squared forms, kanji; compatibility kanji; full-width and
# half-width forms; rarer kanji.
_JAPANESE_RANGES = ((0x3000, 0x30FF), (0x31F0, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0xFF00, 0xFFEF))
_JAPANESE_RANGES += ((0x20000, 0x3FFFF),)
_CHARACTERS = "".join(f"{chr(first)}-{chr(last)}" for first, last in _JAPANESE_RANGES)
JAPANESE = re.compile(f"[{_CHARACTERS}]+")
# Kana, kanji and the marks that stand among them, as the inside of a character class.
LETTERS = "\u3005-\u3007\u3031-\u3035\u303b\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf"
LETTERS += "\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"

# The 2,136 characters of general use in Japan (Jōyō kanji), by code point. Source: 常用漢字表, Cabinet Notification
# No. 2 of 30 November 2010, in its own forms (塡 剝 頰 𠮟).
JOYO_KANJI = (
    "一丁七万丈三上下不与且世丘丙両並中串丸丹主丼久乏乗乙九乞乱乳乾亀了予争事二互五井亜亡交享京亭人仁今介仏仕他付仙代"
    "令以仮仰仲件任企伎伏伐休会伝伯伴伸伺似但位低住佐体何余作佳併使例侍供依価侮侯侵侶便係促俊俗保信修俳俵俸俺倉個倍倒"
    "候借倣値倫倹偉偏停健側偵偶偽傍傑傘備催傲債傷傾僅働像僕僚僧儀億儒償優元兄充兆先光克免児党入全八公六共兵具典兼内円"
    "冊再冒冗写冠冥冬冶冷凄准凍凝凡処凶凸凹出刀刃分切刈刊刑列初判別利到制刷券刹刺刻則削前剖剛剝剣剤副剰割創劇力功加劣"
    "助努励労効劾勃勅勇勉動勘務勝募勢勤勧勲勾匂包化北匠匹区医匿十千升午半卑卒卓協南単博占印危即却卵卸厄厘厚原厳去参又"
    "及友双反収叔取受叙口古句叫召可台史右号司各合吉同名后吏吐向君吟否含吸吹呂呈呉告周呪味呼命和咲咽哀品員哲哺唄唆唇唐"
    "唯唱唾商問啓善喉喚喜喝喩喪喫営嗅嗣嘆嘱嘲器噴嚇囚四回因団困囲図固国圏園土圧在地坂均坊坑坪垂型垣埋城域執培基埼堀堂"
    "堅堆堕堤堪報場塀塁塊塑塔塗塚塞塡塩塾境墓増墜墨墳墾壁壇壊壌士壮声壱売変夏夕外多夜夢大天太夫央失奇奈奉奏契奔奥奨奪"
    "奮女奴好如妃妄妊妖妙妥妨妬妹妻姉始姓委姫姻姿威娘娠娯婆婚婦婿媒媛嫁嫉嫌嫡嬢子孔字存孝季孤学孫宅宇守安完宗官宙定宛"
    "宜宝実客宣室宮宰害宴宵家容宿寂寄密富寒寛寝察寡寧審寮寸寺対寿封専射将尉尊尋導小少尚就尺尻尼尽尾尿局居屈届屋展属層"
    "履屯山岐岡岩岬岳岸峠峡峰島崇崎崖崩嵐川州巡巣工左巧巨差己巻巾市布帆希帝帥師席帯帰帳常帽幅幕幣干平年幸幹幻幼幽幾庁"
    "広床序底店府度座庫庭庶康庸廃廉廊延廷建弁弄弊式弐弓弔引弟弥弦弧弱張強弾当彙形彩彫彰影役彼往征径待律後徐徒従得御復"
    "循微徳徴徹心必忌忍志忘忙応忠快念怒怖思怠急性怨怪恋恐恒恣恥恨恩恭息恵悔悟悠患悦悩悪悲悼情惑惜惧惨惰想愁愉意愚愛感"
    "慄慈態慌慎慕慢慣慨慮慰慶憂憎憤憧憩憬憲憶憾懇懐懲懸成我戒戚戦戯戴戸戻房所扇扉手才打払扱扶批承技抄把抑投抗折抜択披"
    "抱抵抹押抽担拉拍拐拒拓拘拙招拝拠拡括拭拳拶拷拾持指挑挙挟挨挫振挿捉捕捗捜捨据捻掃授掌排掘掛採探接控推措掲描提揚換"
    "握揮援揺損搬搭携搾摂摘摩摯撃撤撮撲擁操擦擬支改攻放政故敏救敗教敢散敬数整敵敷文斉斎斑斗料斜斤斥斬断新方施旅旋族旗"
    "既日旦旧旨早旬旺昆昇明易昔星映春昧昨昭是昼時晩普景晴晶暁暇暑暖暗暦暫暮暴曇曖曜曲更書曹曽替最月有服朕朗望朝期木未"
    "末本札朱朴机朽杉材村束条来杯東松板析枕林枚果枝枠枢枯架柄某染柔柱柳柵査柿栃栄栓校株核根格栽桁桃案桑桜桟梅梗梨械棄"
    "棋棒棚棟森棺椅植椎検業極楷楼楽概構様槽標模権横樹橋機欄欠次欧欲欺款歌歓止正武歩歯歳歴死殉殊残殖殴段殺殻殿毀母毎毒"
    "比毛氏民気水氷永氾汁求汎汗汚江池汰決汽沃沈沖沙没沢河沸油治沼沿況泉泊泌法泡波泣泥注泰泳洋洗洞津洪活派流浄浅浜浦浪"
    "浮浴海浸消涙涯液涼淑淡淫深混添清渇済渉渋渓減渡渦温測港湖湧湯湾湿満源準溝溶溺滅滋滑滝滞滴漁漂漆漏演漠漢漫漬漸潔潜"
    "潟潤潮潰澄激濁濃濫濯瀬火灯灰災炉炊炎炭点為烈無焦然焼煎煙照煩煮熊熟熱燃燥爆爪爵父爽片版牙牛牧物牲特犠犬犯状狂狙狩"
    "独狭猛猟猫献猶猿獄獣獲玄率玉王玩珍珠班現球理琴瑠璃璧環璽瓦瓶甘甚生産用田由甲申男町画界畏畑畔留畜畝略番異畳畿疎疑"
    "疫疲疾病症痕痘痛痢痩痴瘍療癒癖発登白百的皆皇皮皿盆益盗盛盟監盤目盲直相盾省眉看県真眠眺眼着睡督睦瞬瞭瞳矛矢知短矯"
    "石砂研砕砲破硝硫硬碁碑確磁磨礁礎示礼社祈祉祖祝神祥票祭禁禅禍福秀私秋科秒秘租秩称移程税稚種稲稼稽稿穀穂積穏穫穴究"
    "空突窃窒窓窟窮窯立竜章童端競竹笑笛符第筆等筋筒答策箇箋算管箱箸節範築篤簡簿籍籠米粉粋粒粗粘粛粧精糖糧糸系糾紀約紅"
    "紋納純紙級紛素紡索紫累細紳紹紺終組経結絞絡給統絵絶絹継続維綱網綻綿緊総緑緒線締編緩緯練緻縁縄縛縦縫縮績繁繊織繕繭"
    "繰缶罪置罰署罵罷羅羊美羞群羨義羽翁翌習翻翼老考者耐耕耗耳聖聞聴職肉肌肖肘肝股肢肥肩肪肯育肺胃胆背胎胞胴胸能脂脅脇"
    "脈脊脚脱脳腎腐腕腫腰腸腹腺膚膜膝膨膳臆臓臣臨自臭至致臼興舌舎舗舞舟航般舶舷船艇艦良色艶芋芝芯花芳芸芽苗苛若苦英茂"
    "茎茨茶草荒荘荷菊菌菓菜華萎落葉著葛葬蒸蓄蓋蔑蔵蔽薄薦薪薫薬藍藤藩藻虎虐虚虜虞虫虹蚊蚕蛇蛍蛮蜂蜜融血衆行術街衛衝衡"
    "衣表衰衷袋袖被裁裂装裏裕補裸製裾複褐褒襟襲西要覆覇見規視覚覧親観角解触言訂訃計討訓託記訟訪設許訳訴診証詐詔評詞詠"
    "詣試詩詮詰話該詳誇誉誌認誓誕誘語誠誤説読誰課調談請論諦諧諭諮諸諾謀謁謄謎謙講謝謡謹識譜警議譲護谷豆豊豚象豪貌貝貞"
    "負財貢貧貨販貪貫責貯貴買貸費貼貿賀賂賃賄資賊賓賛賜賞賠賢賦質賭購贈赤赦走赴起超越趣足距跡路跳践踊踏踪蹴躍身車軌軍"
    "軒軟転軸軽較載輝輩輪輸轄辛辞辣辱農辺込迅迎近返迫迭述迷追退送逃逆透逐逓途通逝速造連逮週進逸遂遅遇遊運遍過道達違遜"
    "遠遡遣適遭遮遵遷選遺避還那邦邪邸郊郎郡部郭郵郷都酌配酎酒酔酢酪酬酵酷酸醒醜醸采釈里重野量金釜針釣鈍鈴鉄鉛鉢鉱銀銃"
    "銅銘銭鋭鋳鋼錠錦錬錮錯録鍋鍛鍵鎌鎖鎮鏡鐘鑑長門閉開閑間関閣閥閲闇闘阜阪防阻附降限陛院陣除陥陪陰陳陵陶陸険陽隅隆隊"
    "階随隔隙際障隠隣隷隻雄雅集雇雌雑離難雨雪雰雲零雷電需震霊霜霧露青静非面革靴韓音韻響頂頃項順須預頑頒頓領頭頰頻頼題"
    "額顎顔顕願類顧風飛食飢飯飲飼飽飾餅養餌餓館首香馬駄駅駆駐駒騎騒験騰驚骨骸髄高髪鬱鬼魂魅魔魚鮮鯨鳥鳴鶏鶴鹿麓麗麦麺"
    "麻黄黒黙鼓鼻齢𠮟"
)

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


def _byte_characters() -> dict[str, int]:
    """Return the byte that each character of a byte-level vocabulary stands for.

    A byte that prints in Latin-1 stands for itself, the others for the characters from U+0100 on.
    Source: Radford et al. 2019, https://github.com/openai/gpt-2, `bytes_to_unicode`.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


BYTE_OF_CHARACTER = _byte_characters()
CHARACTER_OF_BYTE = {byte: character for character, byte in BYTE_OF_CHARACTER.items()}


def is_byte_level(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Return whether the vocabulary is written in bytes, as GPT-2's is."""
    return b'"ByteLevel"' in _decoder_state(tokenizer)


def piece_bytes(tokenizer: PreTrainedTokenizerFast) -> dict[int, bytes]:
    """Return the UTF-8 bytes that each id stands for in a text; they may be a part of a character.

    Special tokens are left out, and so are pieces of a byte-level vocabulary that are not written in bytes.
    """
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    pieces = {index: piece for piece, index in tokenizer.get_vocab().items() if index not in special}
    if is_byte_level(tokenizer):
        spelled = {index: piece for index, piece in pieces.items() if BYTE_OF_CHARACTER.keys() >= set(piece)}
        return {index: bytes(BYTE_OF_CHARACTER[one] for one in piece) for index, piece in spelled.items()}
    spells_bytes = b'"ByteFallback"' in _decoder_state(tokenizer)
    return {index: _sentencepiece_bytes(piece, spells_bytes) for index, piece in pieces.items()}


def byte_piece_ids(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Return the ids of pieces that are no whole characters: `<0xE3>`, or parts of one in a byte-level vocabulary.

    A piece of one ASCII byte counts where it is written `<0x41>`.
    """
    vocabulary = tokenizer.get_vocab()
    if not is_byte_level(tokenizer):
        spells_bytes = b'"ByteFallback"' in _decoder_state(tokenizer)
        return [index for piece, index in vocabulary.items() if spells_bytes and _BYTE_PIECE.fullmatch(piece)]
    return [index for index, content in piece_bytes(tokenizer).items() if whole_characters(content) is None]


def whole_characters(content: bytes) -> str | None:
    """Return the text that the bytes encode, or None where a character is not whole."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None


def without_surrogates(text: str) -> str:
    """Return the text without lone surrogates: JSON can carry them (`"\\ud83d"`), UTF-8 and tokenizers cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "ignore").decode()
    return text


def first_new_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """Return the id after the tokenizer's last one."""
    return max(tokenizer.get_vocab().values()) + 1


def old_ids_of_new_pieces(old: PreTrainedTokenizerFast, new: PreTrainedTokenizerFast) -> list[list[int]]:
    """Return, for each id of `new` from `first_new_id(old)` on, the ids by which `old` spells its piece.

    The new rows of a model can be initialised by the mean of its rows for these ids.
    Source: Gee et al. 2022, https://arxiv.org/abs/2402.09977 (fast vocabulary transfer).
    """
    pieces = {index: piece for piece, index in new.get_vocab().items()}
    model = old.backend_tokenizer.model  # no normalizer and no prefix: the piece is cut as it stands, whole or not
    return [[token.id for token in model.tokenize(pieces[i])] for i in range(first_new_id(old), first_new_id(new))]


def is_japanese(content: bytes) -> bool:
    """Return whether the bytes are whole Japanese characters, or the beginning of one that can only become Japanese.

    No text without Japanese characters contains such bytes.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        text = decoder.decode(content)
    except UnicodeDecodeError:
        return False
    beginning = decoder.getstate()[0]
    if text:
        return not beginning and JAPANESE.fullmatch(text) is not None
    return _must_become_japanese(beginning)


def _decoder_state(tokenizer: PreTrainedTokenizerFast) -> bytes:
    """Return the settings of the decoder as JSON, and nothing where there is no decoder."""
    decoder = tokenizer.backend_tokenizer.decoder
    return b"" if decoder is None else decoder.__getstate__()


def _must_become_japanese(beginning: bytes) -> bool:
    if not beginning:
        return False
    num_missing = (2 if beginning[0] < 0xE0 else 3 if beginning[0] < 0xF0 else 4) - len(beginning)
    try:
        first, last = (ord((beginning + byte * num_missing).decode()) for byte in (b"\x80", b"\xbf"))
    except UnicodeDecodeError:
        return False
    return any(low <= first and last <= high for low, high in _JAPANESE_RANGES)


def _sentencepiece_bytes(piece: str, spells_bytes: bool) -> bytes:
    if spells_bytes and (match := _BYTE_PIECE.fullmatch(piece)):
        return bytes([int(match[1], 16)])
    return piece.replace("▁", " ").encode()
