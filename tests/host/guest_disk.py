"""The test guest's disk, judged from outside: which block has which counter, and whether one is torn."""
from pool_case import expect

BLOCK, MAGIC, M64 = 4096, 0x6b636f6c62207767, (1 << 64) - 1


def mix64(x):
    """Of tests/guest/mix.h."""
    x = (x + 0x9e3779b97f4a7c15) & M64
    x = ((x ^ x >> 30) * 0xbf58476d1ce4e5b9) & M64
    x = ((x ^ x >> 27) * 0x94d049bb133111eb) & M64
    return x ^ x >> 31


def block_sum(data):
    """Of tests/guest/disk.c: rotate by 7, then xor a word, all but the last. As rotations are linear, words that are
    rotated alike, 64 apart, are put together first."""
    words = bytes(8) + data[:-8]
    row = 0
    for at in range(0, BLOCK, 512):
        row ^= int.from_bytes(words[at:at + 512], "little")
    total = 0
    for column in range(64):
        word, by = row >> 64 * column & M64, 7 * (63 - column) % 64
        total ^= (word << by | word >> 64 - by) & M64
    return mix64(total)


def judge(path, mib):
    """Counter by block of what the guest wrote; anything torn is told."""
    found, torn = {}, []
    with open(path, "rb") as file:
        for block in range((mib << 20) // BLOCK):
            data = file.read(BLOCK)
            words = memoryview(data).cast("Q")
            if words[0] != MAGIC:
                if any(data):
                    torn.append(block)
                continue
            if block_sum(data) != words[-1] or words[1] != block:
                torn.append(block)
            found[block] = words[2]
    expect(not torn, f"{path}: torn blocks {torn[:8]}")
    return found


def older_blocks(mine, theirs):
    """Blocks that one copy has older than another, or not at all."""
    return [block for block, counter in theirs.items() if mine.get(block, 0) < counter]
