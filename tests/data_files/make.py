"""Makes the files that tests/tier0/data_formats.test.ts reads, with other programs, and what these say the rows are.

pip install pyarrow datasets duckdb fastparquet polars pillow; GNU tar. Then: python make.py, which writes files.json.gz beside itself:
{"files": {name: base64}, "rows": {name: rows}}. Odd features are in the names. webdataset's TarWriter is Python's tarfile as used below.
"""
import base64, csv, gzip, hashlib, io, json, os, subprocess, tarfile, tempfile
import datasets, duckdb, fastparquet, pandas, polars
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

HERE = os.path.dirname(os.path.abspath(__file__))
os.chdir(tempfile.mkdtemp())
ROWS = {}


def png(i):
    out = io.BytesIO()
    Image.new("RGB", (2, 2), (i * 37 % 256, i * 91 % 256, i * 11 % 256)).save(out, "PNG")
    return out.getvalue()


sha = lambda data: hashlib.sha256(data).hexdigest()[:16]
pair = lambda prompt, image: {"prompt": prompt, "image": sha(image)}
struct = lambda data, path=None: {"bytes": data, "path": path}
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
CAPTIONS = ["a red cat", "zwei Hühner, \"laut\"", "三只猫\nauf zwei Zeilen", "a red cat", "☃ " * 9 + "end"]
N = len(CAPTIONS)
PAIRS = [pair(c, png(i)) for i, c in enumerate(CAPTIONS)]


def save(name, rows, table=None, **options):
    if table is not None:
        pq.write_table(table, name, **options)
    ROWS[name] = rows


def pairs(text=pa.string()):
    return pa.table({"text": pa.array(CAPTIONS, text), "image": pa.array([struct(png(i), f"{i}.png") for i in range(N)], IMAGE)})


# Parquet: compressions, page versions, encodings.
save("snappy.parquet", PAIRS, pairs(), compression="snappy")
save("zstd_v2_pages.parquet", PAIRS, pairs(), compression="zstd", data_page_version="2.0")
save("gzip.parquet", PAIRS, pairs(), compression="gzip")
save("brotli.parquet", PAIRS, pairs(), compression="brotli")
save("lz4.parquet", PAIRS, pairs(), compression="lz4")
save("plain.parquet", PAIRS, pairs(), compression="none", use_dictionary=False)
save("delta.parquet", PAIRS, pairs(), use_dictionary=False, column_encoding={"text": "DELTA_BYTE_ARRAY", "image.bytes": "DELTA_LENGTH_BYTE_ARRAY", "image.path": "PLAIN"})
save("unmarked_text.parquet", PAIRS, pa.table({"text": pa.array([c.encode() for c in CAPTIONS], pa.binary()), "image": pa.array([png(i) for i in range(N)], pa.binary())}))
save("large_and_dictionary_types.parquet", PAIRS, pairs().set_column(0, "text", pa.array(CAPTIONS, pa.large_string()).dictionary_encode()))
MANY = [f"caption {i % 7}" if i % 3 else "x" * (i % 50) + "y" for i in range(300)]
save("dictionary_small_pages_groups.parquet", [{"text": t} for t in MANY], pa.table({"text": MANY}), row_group_size=70, data_page_size=64, write_batch_size=8)
save("page_index.parquet", [{"text": t} for t in MANY], pa.table({"text": MANY}), write_page_index=True, data_page_size=128, write_batch_size=16, use_dictionary=False)
save("nulls.parquet", [{"text": "a"}, {"text": "b"}], pa.table({"text": ["a", "b"], "image": pa.array([None, None], IMAGE), "images": pa.array([None, []], pa.list_(IMAGE)), "id": [1, None], "score": pa.array([None, None], pa.float64())}))

# Nested: lists of messages, several images, rows that run over pages.
turns = lambda i: [{"role": "user", "content": f"<image>What is {i}?"}, {"role": "assistant", "content": "It is. " * (i % 5 + 1)}]
talk = lambda i: {"turns": [["user", f"<image>What is {i}?".replace("<image>", "")], ["assistant", "It is. " * (i % 5 + 1)]], "images": [sha(png(i))]}
messages = pa.table({"messages": [turns(i) for i in range(40)], "images": pa.array([[struct(png(i))] for i in range(40)], pa.list_(IMAGE))})
save("nested_v1_small_pages.parquet", [talk(i) for i in range(40)], messages, data_page_size=100, write_batch_size=4, row_group_size=25, data_page_version="1.0", compression="snappy")
save("nested_v2_zstd.parquet", [talk(i) for i in range(40)], messages, data_page_size=100, write_batch_size=4, data_page_version="2.0", compression="zstd")
parts = [{"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]}, {"role": "assistant", "content": [{"type": "text", "text": "That."}]}]
save("parts_with_nulls.parquet", [{"turns": [["user", "What?"], ["assistant", "That."]], "images": [sha(png(3))]}], pa.table({"messages": [parts], "image": pa.array([struct(png(3))], IMAGE)}))

spoken = lambda i: [{"from": "human", "value": f"<image>\nWhat is {i}?"}, {"from": "gpt", "value": "It is. " * (i % 5 + 1)}]
save("conversations.parquet", [talk(i) for i in range(4)], pa.table({"conversations": [spoken(i) for i in range(4)], "image": pa.array([struct(png(i)) for i in range(4)], IMAGE)}))

# Other writers.
features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
datasets.Dataset.from_dict({"image": [struct(png(i)) for i in range(N)], "text": CAPTIONS}, features=features).to_parquet("datasets.parquet")
save("datasets.parquet", PAIRS)
label = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
datasets.Dataset.from_dict({"image": [struct(png(i)) for i in range(3)], "label": [1, 0, 1]}, features=label).to_parquet("datasets_labels.parquet")
save("datasets_labels.parquet", [pair("dog", png(0)), pair("cat", png(1)), pair("dog", png(2))])
polars.DataFrame({"text": MANY[:40]}).write_parquet("polars.parquet", row_group_size=16, data_page_size=100)
save("polars.parquet", [{"text": t} for t in MANY[:40]])
duckdb.sql("COPY (SELECT 'row ' || i AS text, ['a', 'b'] AS meta FROM range(50) t(i)) TO 'duckdb.parquet' (FORMAT parquet, COMPRESSION zstd)")
save("duckdb.parquet", [{"text": f"row {i}"} for i in range(50)])
fastparquet.write("fastparquet.parquet", pandas.DataFrame({"text": MANY[:30]}), compression="SNAPPY", row_group_offsets=[0, 20])
save("fastparquet.parquet", [{"text": t} for t in MANY[:30]])
frame = pandas.DataFrame({"text": ["a", "b"]}, index=["x", "y"])
frame.to_parquet("pandas_index.parquet")
save("pandas_index.parquet", [{"text": "a"}, {"text": "b"}])

# Images without a path; and files that are refused, or have bad records alone.
only = pa.struct([("bytes", pa.binary())])
save("image_bytes_alone.parquet", PAIRS, pa.table({"text": CAPTIONS, "image": pa.array([{"bytes": png(i)} for i in range(N)], only)}))
save("names_twice.parquet", [], pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]))
save("no_rows.parquet", [], pa.table({"text": pa.array([], pa.string())}))
save("not_utf8.parquet", [], pa.table({"text": pa.array([b"\xff\xfe", b"good"])}))

# A page of 1.2 GB in a file of 40 KB.
pq.write_table(pa.table({"text": [b"\0" * 1_200_000_000]}), "bomb.parquet", compression="zstd", compression_level=19, use_dictionary=False, write_statistics=False)
ROWS["bomb.parquet"] = []

# Tar.
def shard(name, members, **options):
    with tarfile.open(name, "w", **options) as tar:
        for path, data in members:
            info = tarfile.TarInfo(path)
            info.size, info.mode, info.uname, info.gname = len(data), 0o444, "bigdata", "bigdata"
            tar.addfile(info, io.BytesIO(data))


tarfile.RECORDSIZE = 512  # without padding to 10 KB
of = lambda keys: [m for i, key in enumerate(keys) for m in ((key + ".png", png(i)), (key + ".txt", CAPTIONS[i].encode()))]
keys = [f"{i:06d}" for i in range(N)]
shard("webdataset.tar", of(keys), format=tarfile.USTAR_FORMAT)
save("webdataset.tar", PAIRS)
long = ["a/" * 70 + f"{'long' * 20}{i}" for i in range(N)]
shard("gnu_long_names.tar", of(long), format=tarfile.GNU_FORMAT)
save("gnu_long_names.tar", PAIRS)
unicode = [f"дом/{'名' * 60}{i}" for i in range(N)]
shard("pax_long_unicode.tar", of(unicode), format=tarfile.PAX_FORMAT)
save("pax_long_unicode.tar", PAIRS)
shard("pax_global.tar", of(keys), format=tarfile.PAX_FORMAT, pax_headers={"comment": "0123"})
save("pax_global.tar", PAIRS)
shard("ustar_prefix.tar", of([f"{'folder/' * 20}{k}" for k in keys]), format=tarfile.USTAR_FORMAT)
save("ustar_prefix.tar", PAIRS)
record = lambda i: {"conversations": spoken(i), "id": i}
shard("json_records.tar", [m for i in range(4) for m in ((f"s/{i}.json", json.dumps(record(i)).encode()), (f"s/{i}.PNG", png(i)))])
save("json_records.tar", [talk(i) for i in range(4)])
shard("classes.tar", [("0.cls", b"red ball"), ("0.webp", png(0)), ("1.jpg", png(1)), ("1.cls", b" dog\n")])
save("classes.tar", [pair("red ball", png(0)), pair("dog", png(1))])


def gnu_tar(name, *options):
    """GNU tar over files, one of them with holes, one in a folder that is stored too."""
    folder = tempfile.mkdtemp()
    os.makedirs(folder + "/sub")
    rows = []
    for i in range(N):
        data = png(i) + (bytes(300_000) + b"end" if i == 2 else b"") + (bytes(200_000) if i == 3 else b"")
        with open(f"{folder}/sub/{i}.png", "wb") as file:
            for at in range(0, len(data), 4096):  # holes where there are zeros only
                block = data[at : at + 4096]
                file.seek(at)
                if block.strip(b"\0"):
                    file.write(block)
            file.truncate(len(data))
        with open(f"{folder}/sub/{i}.txt", "w") as file:
            file.write(CAPTIONS[i])
        rows.append(pair(CAPTIONS[i], data))
    subprocess.run(["tar", "-b1", "--sort=name", "--owner=0", "--group=0", "--mtime=@0", *options, "-cf", os.path.abspath(name), "-C", folder, "./sub"], check=True)
    save(name, rows)


gnu_tar("gnu_sparse.tar", "--format=gnu", "--sparse")
gnu_tar("pax_sparse.tar", "--format=posix", "--sparse")

# Tables of text.
with open("captions.csv", "w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["", "file_name", "caption", "url"])
    writer.writerows([i, f"{i}.png", c, ""] for i, c in enumerate(CAPTIONS))
ROWS["captions.csv"] = [{"prompt": c, "path": f"{i}.png"} for i, c in enumerate(CAPTIONS)]
polars.DataFrame({"filepath": ["a.jpg", "b.jpg"], "title": ['say "hi"\tand\ngo', "b, c; d"]}).write_csv("openclip.tsv", separator="\t")
ROWS["openclip.tsv"] = [{"prompt": 'say "hi"\tand\ngo', "path": "a.jpg"}, {"prompt": "b, c; d", "path": "b.jpg"}]
with open("share_gpt_4o.json", "w") as file:
    json.dump([{"input_prompt": c, "output_image": f"{i}.png", "output_image_resolution": [2, 2]} for i, c in enumerate(CAPTIONS)], file, indent=1)
ROWS["share_gpt_4o.json"] = [{"prompt": c, "path": f"{i}.png"} for i, c in enumerate(CAPTIONS)]

for name in ROWS:
    assert os.path.getsize(name) < 40_000, name
content = {"files": {name: base64.b64encode(open(name, "rb").read()).decode() for name in ROWS}, "rows": ROWS}
with open(os.path.join(HERE, "files.json.gz"), "wb") as file:
    file.write(gzip.compress(json.dumps(content, ensure_ascii=False).encode(), 9, mtime=0))
