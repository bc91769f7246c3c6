// Package vsock is a virtio socket device for QEMU, as a vhost-user backend in this
// process: the guest sees a real vsock device, the host needs no vhost module, and on
// the host's side a stream is a connection of a unix socket, as Firecracker does it.
//
//	guest           QEMU               this package                    host
//	-----           ----               ------------                    ----
//	AF_VSOCK <====> vrings in   <====> tx, rx --- mux --- stream <---> unix socket
//	                shared memory                    \--- stream <---> unix socket
//	                vhost-user  <----> session
//
// From the host: connect to PATH, send "CONNECT <port>\n", read "OK <port>\n", and the
// rest is the stream. A connection that is closed without an answer was refused.
// From the guest: a connection to CID 2, port P, becomes one to PATH_P.
//
// Closing follows Firecracker: a half-close is not forwarded. The end of file on the
// host's side shuts the stream down in both directions; a guest that has shut down both
// gets what it sent delivered, and then a reset.
//
// The guest is hostile. It owns all of the memory that the rings live in, so everything
// read from there is copied once, checked, and then used. Nothing it does costs more
// than its own streams: those are at most 1023, with bounded buffers, and a stream that
// does not read stops nobody else.
package vsock
