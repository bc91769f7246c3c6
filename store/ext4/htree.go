package ext4

import "math/bits"

// hashSeed is in the superblock too. A fixed one makes images reproducible.
var hashSeed = [4]uint32{0x2f1d9a63, 0x84c0be17, 0x5be63f02, 0xd3774a9c}

const (
	hashHalfMD4  = 1
	flagUnsigned = 2 // superblock: names are hashed as unsigned bytes
)

// dirHash is ext4's half MD4 of a name. The lowest bit of hash is always clear.
func dirHash(name []byte) (hash, minor uint32) {
	buf := hashSeed
	for {
		var in [8]uint32
		hashInput(name, &in)
		halfMD4(&buf, &in)
		if len(name) <= 32 {
			break
		}
		name = name[32:]
	}
	hash, minor = buf[1]&^1, buf[2]
	const eof = 0x7fffffff << 1 // means the end of a directory to readdir
	if hash == eof {
		hash = eof - 2
	}
	return hash, minor
}

// hashInput makes eight words of the first 32 bytes of name; what is missing is its length.
func hashInput(name []byte, in *[8]uint32) {
	pad := uint32(len(name)) | uint32(len(name))<<8
	pad |= pad << 16
	if len(name) > 32 {
		name = name[:32]
	}
	for i := range in {
		in[i] = pad
		for _, c := range name[:min(4, len(name))] {
			in[i] = in[i]<<8 + uint32(c)
		}
		name = name[min(4, len(name)):]
	}
}

// halfMD4 is three rounds of MD4 with eight steps each.
func halfMD4(buf *[4]uint32, in *[8]uint32) {
	rounds := [3]struct {
		f     func(x, y, z uint32) uint32
		k     uint32
		order [8]int
		shift [4]int
	}{
		{func(x, y, z uint32) uint32 { return z ^ x&(y^z) }, 0,
			[8]int{0, 1, 2, 3, 4, 5, 6, 7}, [4]int{3, 7, 11, 19}},
		{func(x, y, z uint32) uint32 { return x&y + (x^y)&z }, 0x5a827999,
			[8]int{1, 3, 5, 7, 0, 2, 4, 6}, [4]int{3, 5, 9, 13}},
		{func(x, y, z uint32) uint32 { return x ^ y ^ z }, 0x6ed9eba1,
			[8]int{3, 7, 2, 6, 1, 5, 0, 4}, [4]int{3, 9, 11, 15}},
	}
	a, b, c, d := buf[0], buf[1], buf[2], buf[3]
	for _, r := range rounds {
		for i, j := range r.order {
			a = bits.RotateLeft32(a+r.f(b, c, d)+in[j]+r.k, r.shift[i%4])
			a, b, c, d = d, a, b, c
		}
	}
	buf[0] += a
	buf[1] += b
	buf[2] += c
	buf[3] += d
}
