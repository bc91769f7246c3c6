package disk_test

import (
	"testing"

	"banger/store/ext4/ext4test"
)

func TestMain(m *testing.M) { ext4test.Main(m) }
