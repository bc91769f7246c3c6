package api

import "context"

// Settings is what a VM gets that asks for nothing, as its owner has configured
// it.
type Settings struct {
	Path     string     `json:"path"`  // of the owner's file
	Found    bool       `json:"found"` // the file is there
	Values   []Setting  `json:"values,omitempty"`
	FileSync []FileSync `json:"file_sync,omitempty"`
	// Error is what is wrong with the file. No VM is made until it is mended, and
	// nothing else is told here.
	Error *Error `json:"error,omitempty"`
}

// Setting is one value, and where it comes from: "FILE:LINE", "host" (what suits
// it), "catalogue" or "built-in".
type Setting struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Source string `json:"source"`
}

// FileSync is a file or a tree of the owner's home that new VMs get, in the home
// of their user.
type FileSync struct {
	Host  string `json:"host"`
	Guest string `json:"guest"`
	Mode  string `json:"mode"` // octal, of each file
}

// Settings asks what the owner has configured.
func (c *Client) Settings(ctx context.Context) (s Settings, err error) {
	return s, c.call(ctx, "GET", "/v1/config", nil, &s)
}
