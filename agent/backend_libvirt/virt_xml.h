/* XML that libvirt or a stranger wrote, opened and read with care: no network, no entities, a size
 * cap.
 *
 * Flow:   text -> [virt_xml] -> domain_needs, virt_snapshot
 * Thread: any; no state.
 */
#ifndef GODWIT_AGENT_BACKEND_LIBVIRT_VIRT_XML_H
#define GODWIT_AGENT_BACKEND_LIBVIRT_VIRT_XML_H

#include <stdbool.h>
#include <stddef.h>

struct _xmlDoc;
struct _xmlNode;
struct fault;

/* `what` names it in a refusal: "the definition". ERR_INVALID, with words. */
int virt_xml_open(struct _xmlDoc **ret_doc, const char *xml, size_t bytes_max, const char *what,
                  struct fault *fault);
void virt_xml_close_p(struct _xmlDoc **doc); /* for AUTO */

/* libvirt's own elements: those of another namespace are QEMU's or an application's. NULL: none. */
bool virt_xml_is_named(const struct _xmlNode *node, const char *name);
struct _xmlNode *virt_xml_child(const struct _xmlNode *parent, const char *name);
/* "": it is absent, as is a NULL node. false: it is there and does not fit, so it cannot be judged.
 */
bool virt_xml_attribute(const struct _xmlNode *node, const char *name, char *ret_text, size_t size);
bool virt_xml_content(const struct _xmlNode *node, char *ret_text, size_t size);
bool virt_xml_has_value(const struct _xmlNode *node, const char *name, const char *value);

#endif
