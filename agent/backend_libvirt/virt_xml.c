#include "agent/backend_libvirt/virt_xml.h"

#include <libxml/parser.h>
#include <libxml/tree.h>
#include <string.h>

#include "base/err.h"

enum { WORD_SIZE = 64 };

void virt_xml_close_p(xmlDoc **doc)
{
    if (*doc)
        xmlFreeDoc(*doc);
}

int virt_xml_open(xmlDoc **ret_doc, const char *xml, size_t bytes_max, const char *what,
                  struct fault *fault)
{
    size_t count = xml ? strlen(xml) : 0;

    if (!count || count > bytes_max)
        return fault_set(fault, ERR_INVALID, "%s has %zu bytes, possible are 1 to %zu", what, count,
                         bytes_max);
    xmlDoc *doc = xmlReadMemory(xml, (int)count, "libvirt.xml", NULL,
                                XML_PARSE_NONET | XML_PARSE_NOERROR | XML_PARSE_NOWARNING);
    if (!doc)
        return fault_set(fault, ERR_INVALID, "%s is no XML", what);
    if (doc->intSubset || doc->extSubset) {
        xmlFreeDoc(doc);
        return fault_set(fault, ERR_INVALID, "%s declares entities of its own", what);
    }
    *ret_doc = doc;
    return 0;
}

bool virt_xml_is_named(const xmlNode *node, const char *name)
{
    return node->type == XML_ELEMENT_NODE && !node->ns &&
           strcmp((const char *)node->name, name) == 0;
}

xmlNode *virt_xml_child(const xmlNode *parent, const char *name)
{
    for (xmlNode *node = parent ? parent->children : NULL; node; node = node->next) {
        if (virt_xml_is_named(node, name))
            return node;
    }
    return NULL;
}

static bool take(xmlChar *value, char *ret_text, size_t size)
{
    bool fits = !value || strlen((const char *)value) < size;

    ret_text[0] = 0;
    if (value && fits)
        memcpy(ret_text, value, strlen((const char *)value) + 1);
    xmlFree(value);
    return fits;
}

bool virt_xml_attribute(const xmlNode *node, const char *name, char *ret_text, size_t size)
{
    return take(node ? xmlGetNoNsProp((xmlNode *)(uintptr_t)node, (const xmlChar *)name) : NULL,
                ret_text, size);
}

bool virt_xml_content(const xmlNode *node, char *ret_text, size_t size)
{
    return take(node ? xmlNodeGetContent(node) : NULL, ret_text, size);
}

bool virt_xml_has_value(const xmlNode *node, const char *name, const char *value)
{
    char text[WORD_SIZE];
    return virt_xml_attribute(node, name, text, sizeof text) && strcmp(text, value) == 0;
}
