// What machine godwit-1 tells a guest about its devices. Part of the machine version: the compiled
// bytes (acpi_dsdt.c) are what a guest sees and never change under this name.
//
// After a change of a machine that was not yet released: scripts/acpi (iasl of acpica-tools).
DefinitionBlock ("", "DSDT", 2, "GODWIT", "GODWIT-1", 1)
{
    // Sleep type 0 means "off" to the PM1 control register, as in QEMU's machines.
    Name (\_S5, Package () { 0, 0, 0, 0 })

    Scope (\_SB)
    {
        Device (PCI0)
        {
            Name (_HID, EisaId ("PNP0A08"))
            Name (_CID, EisaId ("PNP0A03"))
            Name (_UID, 0)
            Name (_SEG, 0)
            Name (_BBN, 0)
            Name (_CBA, 0xE0000000)

            Name (_CRS, ResourceTemplate ()
            {
                WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode,
                    0, 0, 0, 0, 1)
                IO (Decode16, 0x0CF8, 0x0CF8, 1, 8)
                WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange,
                    0, 0x0000, 0x0CF7, 0, 0x0CF8)
                WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange,
                    0, 0x0D00, 0xFFFF, 0, 0xF300)
                DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable,
                    ReadWrite, 0, 0xC0000000, 0xDFFFFFFF, 0, 0x20000000)
            })

            // No hot plug, no power management events, no error reporting: nothing is granted.
            Method (_OSC, 4, NotSerialized)
            {
                CreateDWordField (Arg3, 0, CDW1)
                If (LEqual (Arg0, ToUUID ("33db4d5b-1ff7-401c-9657-7441c03dd766")))
                {
                    CreateDWordField (Arg3, 8, CDW3)
                    If (LNotEqual (Arg1, 1))
                    {
                        Or (CDW1, 0x08, CDW1) // revision not known
                    }
                    If (LNotEqual (CDW3, 0))
                    {
                        Or (CDW1, 0x10, CDW1) // masked
                    }
                    Store (0, CDW3)
                }
                Else
                {
                    Or (CDW1, 0x04, CDW1) // not this UUID
                }
                Return (Arg3)
            }
        }

        // Where configuration space and the PM registers lie: nobody else may take these.
        Device (RES0)
        {
            Name (_HID, EisaId ("PNP0C02"))
            Name (_UID, 0)
            Name (_CRS, ResourceTemplate ()
            {
                Memory32Fixed (ReadOnly, 0xE0000000, 0x00100000)
                IO (Decode16, 0x0600, 0x0600, 1, 0x10)
            })
        }

        Device (COM1)
        {
            Name (_HID, EisaId ("PNP0501"))
            Name (_UID, 1)
            Method (_STA, 0, NotSerialized) { Return (0x0F) }
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x03F8, 0x03F8, 0, 8)
                IRQNoFlags () { 4 }
            })
        }

        Device (RTC0)
        {
            Name (_HID, EisaId ("PNP0B00"))
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x0070, 0x0070, 0, 2)
                IRQNoFlags () { 8 }
            })
        }
    }
}
