"""Ring 2: certificates and join tokens. Keys, serial numbers and the time are arguments; this
package stores nothing and logs nothing."""
