"""Small chat templates as Jinja renders them in the environment of transformers, for src/model/chat_template/tests.rs.

    python tests/reference/template_language.py > tests/reference/fixtures/template_language.json

Each template tries one thing that the language has: a filter, a test, a method of Python's, an operator, a piece of syntax.
Made with transformers 5.23.0 and jinja2 3.1.6.
"""

import datetime
import json
import re

from transformers.utils import chat_template_utils


class FixedDate(datetime.datetime):
    """The one day that fedward shows to templates."""

    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26)


chat_template_utils.datetime = FixedDate

MESSAGES = [{"role": "user", "content": "Hi there"}, {"role": "assistant", "content": " Yes. "}]

# One expression per line, written between {{ and }}.
EXPRESSIONS = r"""
1.0
1e20
1e16
1e15
123456789012345678.0
1.5e300
0.1 + 0.2
0.0001
0.00001
1e-7
-0.0
1/3
2/1
10 / 4
7 // 2
-7 // 2
7 % 3
-7 % 3
7.5 % 2
7.5 // 2
2 ** 10
2 ** -1
2 ** 0.5
-2 ** 2
2 ** 3 ** 2
10 ** 20
2 ** 100
1_000
0x1F
0b101
0o17
true
false
none
True
False
None
undefined_name
[1, 2.0, 'a', "it's", none, true]
(1, 2)
(1,)
()
{'a': 1, 'b': [1, 'x'], 3: none}
{}
[]
['\n', '\t', '\\', "'", '"', "é", '\x00', '\u200b', '🙏']
'a' ~ 1 ~ 2.0 ~ none ~ true ~ [1, 'a'] ~ {'k': 1e20}
'x' ~ 1e20
'x' ~ 1e-5
(1e20) | string
1.0 | string
[1e20] | string
[1, 'a', none] | join(', ')
[1e20, 1.0] | join(',')
'ab' * 3
3 * 'ab'
'ab' * 0
'ab' * -1
[1, 2] * 2
(1,) * 3
'a' + 'b'
[1] + [2]
(1,) + (2,)
'a' + 1
1 + 'a'
'a' - 'b'
[1] + (2,)
1 + true
true + true
1 + none
'%s' % 'a'
'%s and %s' % ('a', 'b')
'%d items' % 3
'%05.2f' % 3.14159
'%-5s|' % 'ab'
'%5s|' % 'ab'
'%x' % 255
'%r' % 'a'
'%s' % none
'%s' % 1.0
'%s' % [1, 2]
'%%' % ()
'%s%%' % 5
'%(a)s' % {'a': 1}
'%s %s' % ('a',)
'%d' % 'a'
'%c' % 65
'%e' % 12345.678
'%g' % 0.00001
'%+d' % 5
'%i' % 3.7
'a %s b' % messages[0].role
('%s' % 'a') ~ 'b'
'%s' % 'a' | upper
'%s' % 'a' ~ 'b'
2 * 3 % 4
messages[0].content % ()
'%s' | format('a')
'%s-%s' | format('a', 1.0)
'%(x)s' | format(x=3)
'{} {}'.format('a', 1)
'{0}-{1}-{0}'.format('a', 'b')
'{a}'.format(a=1)
'{:>5}'.format('ab')
'{:05.1f}'.format(3.14159)
'{:,}'.format(1234567)
'{}'.format(none)
'{}'.format(1e20)
'{{}}'.format()
1 < 2 < 3
1 < 3 < 2
1 == 1.0
1 == true
'a' < 'b'
'a' == 1
[1, 2] < [1, 3]
(1, 2) < (1, 3)
[1] == (1,)
{'a': 1} == {'a': 1}
none == false
none == none
undefined_name == none
undefined_name is none
undefined_name == undefined_name
undefined_name == ''
not undefined_name
undefined_name or 'x'
undefined_name and 'x'
undefined_name.a
undefined_name['a']
undefined_name + 'a'
undefined_name ~ 'a'
undefined_name | length
undefined_name | list
undefined_name | upper
undefined_name | default('d')
none | default('d')
none | default('d', true)
'' | default('d', true)
'' | d('x')
0 | default('d', boolean=true)
undefined_name | tojson
undefined_name | join(',')
undefined_name in ['a']
'a' in undefined_name
1 in [1.0]
'a' in 'abc'
'' in 'abc'
'a' in {'a': 1}
1 in (1, 2)
1 not in [1, 2]
'a' not in 'abc'
none in [none]
true and 'x'
false or 'x'
0 or ''
'' or none
not 'a'
not []
not {}
not 0.0
'a' if true else 'b'
'a' if false
('a' if false) is defined
messages[0]
messages[0]['role']
messages[-1].role
messages[5]
messages[5].role
messages[0].nothing
messages[0].nothing.more
messages[0]['nothing'] is defined
messages[0].items() | list
messages[0].keys() | list
messages[0].values() | list
messages[0].get('role')
messages[0].get('x')
messages[0].get('x', 'd')
messages[0] | length
messages | length
messages | count
messages[::-1] | map(attribute='role') | join(',')
messages[1:] | length
messages[:1] | length
messages[:-1] | length
messages[-1:][0].role
messages[0:10] | length
messages[1:1]
messages[:]
'hello'[1]
'hello'[-1]
'hello'[1:3]
'hello'[::-1]
'hello'[::2]
'hello'[-3:]
'hello'[:-1]
'hello'[10]
'hello'[10:]
'hello'[3:1]
'héllo🙏'[1:]
'hello'[-2::-1]
(1, 2, 3)[1:]
[1, 2, 3][::-1]
[1, 2, 3][-5:2]
[1, 2, 3][5:]
[1, 2, 3][1]
[1, 2, 3]['a']
{'a': 1}.a
{'a': 1}['a']
{'a': 1}.b
{1: 'x'}[1]
{'items': 3}['items']
'a'.foo
'a'.foo()
messages.foo()
'abc'.upper()
'ABC'.lower()
'abc def'.title()
"they're bill's".title()
'abc-def ghi_jkl 3rd'.title()
'hello world'.capitalize()
'HELLO wORLD'.capitalize()
'  a '.strip()
'  a '.lstrip()
'  a '.rstrip()
'xxaxx'.strip('x')
'abcab'.strip('ab')
'abc'.lstrip('ab')
'abc'.rstrip('bc')
'a\u00a0'.strip()
'\x1ca\x1f'.strip()
'\u200ba\ufeff'.strip()
'a\x85'.strip()
'a b  c'.split()
' a b '.split()
'a,b,,c'.split(',')
'a,b,c'.split(',', 1)
'a,b,c'.split(',', maxsplit=1)
'a,b,c'.split(sep=',')
'a b c'.split(none, 1)
'a b c d'.split(' ', -1)
''.split()
''.split(',')
'a,b,c'.rsplit(',', 1)
'a b  c'.rsplit()
'a b c'.rsplit(none, 1)
'abc'.split('')
'a=b=c'.partition('=')
'a=b=c'.rpartition('=')
'abc'.partition('=')
'abc'.rpartition('=')
'a\nb\r\nc\n'.splitlines()
'a\nb\r\nc\n'.splitlines(true)
'a\nb'.splitlines(keepends=true)
'a\rb\x0bc\u2028d'.splitlines()
''.splitlines()
'a\n\nb'.splitlines()
'abc'.startswith('a')
'abc'.startswith(('x', 'a'))
'abc'.startswith('b', 1)
'abc'.startswith('')
'abc'.endswith('c')
'abc'.endswith(('x', 'c'))
'abc'.endswith('b', 0, 2)
'aXbX'.replace('X', 'y')
'aXbX'.replace('X', 'y', 1)
'aXbX'.replace('X', '')
'abc'.replace('', '-')
'abc'.find('c')
'abc'.find('z')
'abcabc'.find('a', 1)
'héé'.find('é')
'abcabc'.rfind('a')
'abc'.index('c')
'abc'.index('z')
'abcabc'.rindex('a')
'banana'.count('a')
'banana'.count('ana')
'abc'.count('')
','.join(['a', 'b'])
','.join(('a', 'b'))
','.join('abc')
','.join([1, 2])
','.join(messages | map(attribute='role'))
'abc'.isalpha()
'ab1'.isalnum()
'12'.isdigit()
'12'.isdecimal()
'²'.isdecimal()
''.isdigit()
''.isalpha()
'abc'.islower()
'ABC'.isupper()
'A1'.isupper()
' '.isspace()
''.isspace()
'abc'.isascii()
'abc'.isprintable()
'abc'.center(7, '*')
'abc'.center(6)
'abc'.ljust(5, '.')
'abc'.ljust(5) ~ '|'
'abc'.rjust(5, '.')
'42'.zfill(5)
'-42'.zfill(5)
'aBc'.swapcase()
'ß'.upper()
'İ'.lower()
'ΑΣ'.lower()
'ǆ'.title()
'abc'.removeprefix('a')
'abc'.removesuffix('c')
'abc'.removeprefix('x')
[1, 2, 1].count(1)
[1, 2, 1].index(2)
(1, 2, 1).count(1)
(1, 2).index(2)
[3].append(1)
[1, 2].pop()
[1].copy()
[1].extend([2])
[2, 1].sort()
{'a': 1}.update({'b': 2})
{'a': 1}.pop('a')
{'a': 1}.copy()
{'a': 1}.setdefault('b', 2)
{'a': 1}.keys()
{'a': 1}.values()
{'a': 1}.items()
dict(a=1)
dict(a=1, b='x')
dict({'a': 1}, b=2)
range(3) | list
range(1, 10, 3) | list
range(5, 0, -2) | list
range(3)[1]
range(3)[-1]
range(3) | length
'x' in range(3)
2 in range(3)
namespace(a=1).a
namespace({'a': 1}).a
namespace()
cycler is defined
joiner is defined
cycler('a', 'b').next()
joiner(', ')()
'a b c' | title
"they're bill's friends" | title
'abc-def (ghi) [jkl] {mno} <pqr> _stu' | title
'HELLO' | title
'3rd x2y' | title
'ABC' | lower
'abc' | upper
'hello World' | capitalize
'  a  ' | trim
'xxaxx' | trim('x')
'xyaxy' | trim('xy')
'..a..' | trim(chars='.')
'\x1c a \x85' | trim
3 | trim
none | trim
[1, 2] | trim
[1, 2] | tojson
{'b': 1, 'a': 2} | tojson
{'b': 1, 'a': 2} | tojson(sort_keys=true)
{'b': 1, 'a': 2} | tojson(indent=2)
{'b': [1, {}], 'a': []} | tojson(indent=4)
{'b': [1, {}], 'a': []} | tojson(indent=0)
{'a': [1, 2]} | tojson(indent='\t')
{'a': [1, 2]} | tojson(separators=(',', ':'))
{'a': [1, 2]} | tojson(separators=[',', ':'])
{'a': [1, 2]} | tojson(indent=2, separators=(',', ': '))
'é🙏' | tojson
'é🙏' | tojson(ensure_ascii=true)
'é🙏' | tojson(ensure_ascii=false)
'é🙏' | tojson(true)
{'é': 1} | tojson(true, 2)
{'b': 1, 'a': 2} | tojson(false, none, none, true)
'<a href="x">&\'</a>' | tojson
'\x00\x1f\x7f\u2028\b\f\n\r\t\\"/' | tojson
1.0 | tojson
1e20 | tojson
1e-7 | tojson
true | tojson
none | tojson
[none, true, 1.5] | tojson
(1, 2) | tojson
{1: 2, none: 3, true: 4, 1.5: 5} | tojson
{'b': 1, 'a': {'d': 1, 'c': 2}} | tojson(sort_keys=true, indent=1)
messages | tojson
messages | map(attribute='role') | tojson
messages | map(attribute='role') | list | tojson
[1] | tojson(indent=none)
[1] | tojson(nonsense=1)
'a b c' | wordcount
"it's a dog-eared, 3 word" | wordcount
'' | wordcount
'hello world, how are you' | truncate(10)
'hello world, how are you' | truncate(10, true)
'hello world, how are you' | truncate(10, false, '..')
'hello world, how are you' | truncate(10, true, '..', 0)
'hello world, how are you' | truncate(21)
'hello world, how are you' | truncate(length=9, killwords=true, end='', leeway=0)
'hello' | truncate(3)
'helloworld abc' | truncate(5, leeway=0)
'a' | truncate
'a\nb\n\nc' | indent
'a\nb\n\nc' | indent(2)
'a\nb\n\nc' | indent(2, true)
'a\nb\n\nc' | indent(2, first=true, blank=true)
'a\nb\n\nc' | indent('> ')
'a\nb\n' | indent(2)
'a\r\nb' | indent(2)
'aXb' | replace('X', 'y')
'aXbX' | replace('X', 'y', 1)
'aXb' | replace(old='X', new='y')
'abc' | replace('', '-')
'abc' | replace('', '-', 2)
'aaa' | replace('a', 'b', count=0)
'aaa' | replace('a', 'b', count=none)
'aaa' | replace('a', 'b', -1)
['a'] | replace('a', 'b')
['a', 1] | upper
{'A': true} | lower
['b', 'a'] | capitalize
[1, '<'] | e
'a/b "c" \'d\' & <e>' | e
'<' | e | e | escape
'<' | escape | upper
[1] | safe
'{x}{0}'.format([1, 'a'], x={'b': 'c'})
[1, 2] == [1, 2] and 1 + 1 == 1 * 2 and not [1] == [2]
1 < 1 + 1 < 3 == true
[1] in [[1], [2]] and [1] not in [[3]]
(1, 'a') in {(1, 'a'): 2}
{(1, messages[0].role): 'b'}[(1, 'user')]
[1, 2, 3][messages | length - 1]
[1, 2, 3][messages | length:]
messages[0]['ro' ~ 'le']
[[1, 2]] | select('eq', [1, 2]) | list
[[1, 2]] | select('in', [[1, 2]]) | list
[1] is in [[1]]
1 is not in [1]
[1] is eq [1]
[1] is ne([2])
(1, [2]) < (1, [3])
[[2], [1, 5], [1]] | sort
[[2], [1]] | min
[[2], [1]] | max
{'a': [2], 'b': [1]} | dictsort(by='value')
[messages[0]] == [messages[0]]
messages == messages | list
nothing == none
nothing == [nothing]
[1].index(1) + [1, 1].count(1)
[[1], [2]].index([2])
{'a': 1}.get('b', [2]) == [2]
3 | replace('3', '4')
'abc' | reverse
[1, 2, 3] | reverse | list
[3, 1, 2] | sort
[3, 1, 2] | sort(reverse=true)
['b', 'A', 'a', 'B'] | sort
['b', 'A', 'a', 'B'] | sort(case_sensitive=true)
messages | sort(attribute='role') | map(attribute='role') | list
'cab' | sort
[1, 2, 2, 1] | unique | list
['a', 'A', 'b'] | unique | list
['a', 'A', 'b'] | unique(case_sensitive=true) | list
[1, 2, 3] | sum
[1.5, 2] | sum
[] | sum
messages | map(attribute='content') | map('length') | sum
[{'n': 1}, {'n': 2}] | sum(attribute='n')
[1, 2] | sum(start=10)
[1, 3, 2] | max
[1, 3, 2] | min
['a', 'B'] | max
['a', 'B'] | min
[] | max
[1, 2] | first
[] | first
[1, 2] | last
'abc' | first
'abc' | last
{'a': 1, 'b': 2} | first
'abc' | list
{'a': 1} | list
(1, 2) | list
3 | list
'abc' | length
3 | length
none | length
3.7 | int
'3' | int
'3.7' | int
'x' | int
'x' | int(5)
'0x1f' | int(base=16)
'ff' | int(0, 16)
true | int
none | int
' 3 ' | int
'1_000' | int
1e20 | int
'3.5' | float
'x' | float
'x' | float(1.5)
3 | float
'1e3' | float
'inf' | float
-3 | abs
-3.5 | abs
3.7 | round
3.14159 | round(2)
2.5 | round
3.5 | round
-2.5 | round
3.14159 | round(2, 'floor')
3.14159 | round(2, 'ceil')
1234 | round(-2)
3 | round
0.5 | round
1.005 | round(2)
2.675 | round(2)
'a' | string
none | string
true | string
messages | batch(1) | list | length
[1, 2, 3] | batch(2) | list
[1, 2, 3] | batch(2, 'x') | list
[1, 2, 3, 4, 5] | slice(2) | list
[1, 2, 3, 4, 5] | slice(2, 'x') | list
{'b': 1, 'a': 2} | dictsort
{'b': 1, 'a': 2} | dictsort(by='value')
{'b': 1, 'a': 2} | dictsort(reverse=true)
{'b': 1, 'A': 2} | dictsort
{'a': 1} | items | list
undefined_name | items | list
messages | map(attribute='role') | list
messages | map(attribute='nope') | list
messages | map(attribute='nope', default='d') | list
messages | map('length') | list
['a', 'b'] | map('upper') | list
['a', 'b'] | map('replace', 'a', 'x') | list
[[1, 2], [3]] | map(attribute=0) | list
[{'a': {'b': 1}}] | map(attribute='a.b') | list
[1, 2] | map('string') | join
messages | selectattr('role', 'equalto', 'user') | list | length
messages | selectattr('role', '==', 'user') | list | length
messages | selectattr('role', 'eq', 'user') | map(attribute='content') | first
messages | selectattr('role', 'in', ['user']) | list | length
messages | selectattr('role') | list | length
messages | selectattr('nope') | list | length
messages | selectattr('nope', 'defined') | list | length
messages | rejectattr('role', 'equalto', 'user') | list | length
messages | rejectattr('nope') | list | length
[0, 1, 2] | select | list
[0, 1, 2] | select('odd') | list
[0, 1, 2] | reject('odd') | list
[0, 1, 2] | select('gt', 1) | list
['a', 1] | select('string') | list
messages | groupby('role') | map(attribute='grouper') | list
messages | groupby('role') | map(attribute='list') | map('length') | list
messages | groupby('role') | map('first') | list
'<a>' | escape
'<a>' | e
'<a>' | safe
messages[0] | attr('role')
'a' | center(5) ~ '|'
'abc' | nonsense
'a' is string
1 is string
'a' is sequence
[1] is sequence
(1,) is sequence
{'a': 1} is sequence
range(3) is sequence
1 is sequence
none is sequence
undefined_name is sequence
messages | map(attribute='role') is sequence
'a' is iterable
[1] is iterable
{'a': 1} is iterable
1 is iterable
none is iterable
undefined_name is iterable
'a' is mapping
{'a': 1} is mapping
[1] is mapping
messages[0] is mapping
1 is number
1.5 is number
true is number
'1' is number
1 is integer
1.0 is integer
true is integer
1.0 is float
1 is float
true is boolean
1 is boolean
true is true
1 is true
false is false
0 is false
none is none
none is defined
undefined_name is defined
undefined_name is undefined
messages is defined
3 is odd
3 is even
6 is divisibleby(3)
6 is divisibleby 3
'abc' is lower
'ABC' is upper
'a' is eq 'a'
1 is lt 2
1 is sameas 1
none is sameas none
true is sameas true
1 is sameas true
'a' is in ['a']
'a' is not in ['a']
'a' is not string
'upper' is filter
'nonsense' is filter
'odd' is test
range is callable
'a' is callable
'a' is escaped
'a' is startingwith('a')
'a' is nonsense
1 is 1
not 1 is string
1 is string or true
'a\'b"c'
"a\"b'c"
'a\
b'
'a' 'b'
"multi
line"
'\a\b\f\v\0'
'\q'
'\U0001F64F'
'\ud83d\ude4f'
messages[0].content.split(' ')[0].upper()
messages[0]['content'] | trim | upper ~ '!'
-messages | length
- 3 | abs
-3 | string
(-3) | abs
1 if 2 else 3 if 4 else 5
'a' if messages[0].role == 'user' and not tools else 'b'
[x for x in messages]
{**messages[0]}
[*messages]
lambda x: x
messages[0].role is string and messages[0].role == 'user'
messages[0] is mapping and 'role' in messages[0]
'role' in messages[0]
loop is defined
loop
caller is defined
varargs is defined
messages | last | attr('role') | upper
(messages | last).role
messages[0]["con" ~ "tent"]
messages[0].content[:2]
{'a': 1} | length
'a,b' . split(',')
'abc' [1]
[[1, 2], [3, 4]][1][0]
[1, 2,]
{'a': 1,}
{'a': 1, 'a': 2}
{'a' ~ 'b': 1}
{a: 1}
'a' | upper | lower
['a'] | upper
{'a': 1} | string
{'a': 1} | upper
12345678901234567890
12345678901234567890123
9223372036854775808
1 / 0
1 // 0
1 % 0
1.0 // 0.3
5 // 2.0
5.0 % -3
7 / 7
1e308 * 10
-1e308 * 10
(1e308 * 10) - (1e308 * 10)
1e999
0 == -0
'é' == 'e\u0301'
'Z' < 'a'
'🙏' > '\uffff'
strftime_now('%Y-%m-%d')
strftime_now('%d %b %Y')
strftime_now('%-d %B %Y')
strftime_now('%e %b')
strftime_now('%F')
strftime_now('%I:%M %p')
strftime_now('%-I:%-M')
strftime_now('%j')
strftime_now('%-j')
strftime_now('%x')
strftime_now('%X')
strftime_now('%c')
strftime_now('%D')
strftime_now('%T')
strftime_now('%R')
strftime_now('%r')
strftime_now('%w')
strftime_now('%u')
strftime_now('%U')
strftime_now('%W')
strftime_now('%V')
strftime_now('%G')
strftime_now('%g')
strftime_now('%C')
strftime_now('%h')
strftime_now('%k')
strftime_now('%l')
strftime_now('%n|%t|')
strftime_now('%P')
strftime_now('%f')
strftime_now('%-m/%-d/%y')
strftime_now('%_d')
strftime_now('%_m')
strftime_now('%0e')
strftime_now('%^a')
strftime_now('%^B')
strftime_now('%#p')
strftime_now('%A, %a')
strftime_now('%Z')
strftime_now('%z')
strftime_now('%%')
strftime_now('%H:%M:%S')
strftime_now('')
strftime_now('plain é 🙏')
strftime_now('%5d')
strftime_now('%010Y')
strftime_now('%-y %-H %-S')
strftime_now('%Ey')
strftime_now('%EY')
strftime_now('%Od')
strftime_now('100%')
strftime_now("%A, %d %B %Y, %I:%M %p")
strftime_now('%10B|%-10B|%010B')
strftime_now('%_5d|%-5d|%_j')
strftime_now('%_H:%_M')
strftime_now('%^p %^b %#A %#h')
strftime_now('%OB')
strftime_now('%d' ~ ' %B')
'a' ~ 'b' == 'ab'
'a' ~ 'b' in ['ab']
'a' ~ ('b' if true else 'c') ~ 'd'
('a' ~ 'b') | upper
'a' ~ 'b' | upper
1 ~ 2 + 3
1 + 2 ~ 3
2 * 3 ~ 4 * 5
-1 ~ -2
not 'a' ~ ''
'a' ~ not_there ~ 'b'
'a' ~ 'b' if 'c' ~ '' else 'd' ~ 'e'
['a' ~ 1, 'b' ~ 2.50]
{'k' ~ 1: 'v' ~ 2}
dict(a='x' ~ 1).a
'x' ~ 1 is string
'%s' % ('a' ~ 'b')
'%s' % 'a' ~ '%s' % 'b'
10 % 4 * 3
10 * 4 % 3
10 % 4 % 2
10 // 4 % 2
2 ** 3 % 5
10 % 4 + 1
1 + 10 % 4
10 % 4 == 2
-10 % 3
10 % -3
-10.5 % 3
10 % 2.5
true % 2
10 % 4 ~ 'a'
messages | length % 2
(messages | length) % 2 == 0
'%s' % messages | length
'%s items' % messages | length
'%5.1f|%-8s|%+d' % (3.14159, 'ab', 7)
'%3d|%-3d|%03d' % (5, 5, 5)
'%.3s' % 'abcdef'
'%o %X %#x' % (8, 255, 255)
'%s' % (('a', 'b'),)
'%s %s' % (1, 2.5)
'%s' % 1e20
'%d' % true
'%s' % true
'%.2e' % 12345.678
'%.10g' % 1234.5
'%g' % 1e20
'%G' % 1e-10
'%d' % 1e3
'%(a)s-%(b)d' % {'a': 'x', 'b': 3}
'%(a)s' % {'b': 1}
'%' % ()
'a%'
'100%' ~ '%'
'{:.2f} {:>8} {:<4}|'.format(1.005, 'a', 'b')
'{:08.3f}'.format(3.14159)
'{:+d}'.format(5)
'{:x}'.format(255)
'{:e}'.format(12345.678)
'{:^7}'.format('abc')
'{0[0]}'.format([1, 2])
'{} {}'.format('a')
'{}'.format([1e20, 'a'])
'{}'.format(true)
[none, true, {'a': (1, 'x')}] | string
['a', ['b', ['c']]] | string
'a' in messages | map(attribute='role')
'user' in messages | map(attribute='role')
'user' in (messages | map(attribute='role') | list)
messages | map(attribute='role') | first
messages | map(attribute='role') | join(', ') | upper
messages | map(attribute='role') | length
messages | map(attribute='role') | sort | first
messages | map(attribute='role') | unique | list
messages | map(attribute='content') | map('trim') | map('length') | sum
messages | reverse | map(attribute='role') | list
messages | selectattr('role', 'ne', 'user') | map(attribute='role') | join
messages | select('mapping') | list | length
messages | batch(2) | map('length') | list
messages | map(attribute='role') is iterable
messages[0].keys() is sequence
messages[0].keys() is iterable
messages[0].keys() | sort
messages[0].keys() | join('+')
messages[0].values() | map('upper') | list
messages[0].items() | map('first') | list
messages[0].items() | list | length
'role' in messages[0].keys()
messages[0] | list
messages[0] | join(',')
messages[0] | dictsort | map('last') | list
messages[0] | items | list
messages | tojson | length
messages[0].content.split() | length
messages[0].content.split()[0][0]
messages[0].content | list | first
messages[0].content[-1] | upper
messages[0].content | replace('i', 'o') | reverse
messages[1].content | trim('. ')
messages[1].content.strip(' .').lower()
messages[1].content.strip() | length
(messages[0].content ~ messages[1].content).split(' ')
messages[0].content.find('there') >= 0
messages[0].content.split('t', 1)[1]
messages[0].content == 'Hi ' ~ 'there'
'Hi' in messages[0].content and 'x' not in messages[0].content
namespace(a=1, b='x')
cycler('a', 'b').current
joiner()()
['a'] is sequence and ['a'] is not mapping
'' is sequence
namespace(a=1) is mapping
namespace(a=1) is sequence
namespace(a=1) is iterable
range(3) is iterable
(1 is defined) and (x is not defined)
x is not defined and y is undefined
'a' is string and 'a' is sequence
1.5 is sequence
true is sequence
dict is callable
namespace(a=1) | attr('a')
loop | attr('index')
{'a': 1} | attr('a') is defined
'a,b' | split(',')
'a\nb' | lines
1 | bool
[1] | chain([2]) | list
[1] | zip([2]) | list
debug()
'\x41\u0042\103'
'\\n'
'\'quoted\''
"tab\there"
'a\/b'
'\d+'
'\U00000027\x27\u0022\x5c\x7f\u00a0\x0a\x20'
'\é \今 \🙏'
'\a' == '\x07'
'\0' | length
'\u12'
'\x4'
'{%' ~ '%}'
'{{' ~ '}}'
'{#' ~ '#}'
"}}"
{'a': {'b': {}}}
{'a': {'b': {}}}.a.b
[[]]
[{}]
(((1)))
1 if true
(1 if false) ~ 'x'
'a' if false else ('b' if false else 'c')
[1, 2, 3] | sum / 2
7 | string ~ 'x'
-7 | abs
(-7) | abs ~ 'x'
2 ** 3 ~ 'x'
1 == 1 ~ ''
'b' > 'a' ~ ''
'abc' | first ~ 'x'
'a' | default('b') ~ 'c'
x | default('b') ~ 'c'
x | default('b' ~ 'c')
x | d('b', true) | upper
none | d('b', true)
false | default('b', boolean=true)
x | default(default_value='z')
x.y | default('z')
messages[9] | default('z')
messages[9].x | default('z')
(messages[9] | default({})).x | default('z')
'é' | tojson(ensure_ascii=True, indent=None)
[] | tojson(indent=2)
[[], {}] | tojson(indent=2)
{'a': none, 'b': true, 'c': [1.0, 2.5e-8]} | tojson
{'a': 'x\ny'} | tojson(indent=2, sort_keys=true)
'\ud83d' | tojson
'\x7f' | tojson
'\x7f' | tojson(ensure_ascii=true)
{'b': 1, 'a': [3, {'z': 1, 'y': 2}]} | tojson(indent='--', separators=(';', '='), sort_keys=true)
[1, 2] | tojson(separators=(',',))
'ab cd' | title ~ 'x'
'o\'neil mc-donald' | title
'ÉCOLE élan' | title
'ǆ ß ﬁn' | title
'ß ﬁn ǆ'.title()
'éCOLE'.capitalize()
'ﬁn' | capitalize
'1st 2ND' | title
'a\tb\nc' | title
'hello world foo' | truncate(12, leeway=0)
'日本語 テキスト です' | truncate(6, true, '…', 0)
'a' * 300 | length
('a' * 300) | truncate | length
'word ' | wordcount
'naïve café_x 日本 ½' | wordcount
'हिन्दी' | wordcount
'a b' | center(6) ~ '|'
'é' | center(4) ~ '|'
'x' | indent(2, true) | indent(2, true)
'a\n\n  b' | indent(3, blank=true)
'' | indent(2, true)
'a\u2028b' | indent(2)
'12' | int + 1
'12.9' | int
'-12' | int
'- 12' | int
'+12' | int
'1e3' | int
'0x1f' | int
'0b11' | int(base=2)
'0o17' | int(base=8)
'z' | int(base=36)
'nan' | int
'inf' | int
[] | int
{} | int(7)
'1.5' | float + 1
'nan' | float
'1_0.5' | float
' 1.5 ' | float
'1e400' | float
1.5 | int
-1.5 | int
1e30 | int
2.5 | round | int
2.5 | round(1)
'a-b_c.d' | replace('-', '') | replace('_', '')
'aaa' | replace('a', 'b', 2)
'a.b' | replace('.', '')
['b', 'a'] | sort | join
[[2, 'b'], [1, 'a']] | sort
['b', 'a', 'C'] | sort(reverse=true, case_sensitive=true)
[{'n': 2}, {'n': 1}] | sort(attribute='n') | map(attribute='n') | list
[3, 1] | min ~ [3, 1] | max
[] | min is undefined
[] | first is undefined
[] | last is undefined
'' | first is undefined
[1, none, 'a', 0, ''] | select | list
[1, none, 'a', 0, ''] | reject | list
['a', 'b'] | map('upper') | map('lower') | list
['a', 'b'] | map('indent', 2, true) | list
[' a '] | map('trim') | list
[1.5, 2.5] | map('round') | map('int') | list
[1, 2, 3, 4] | select('even') | map('string') | join('-')
[1, 2, 3, 4] | reject('divisibleby', 2) | list
"""

# Whole templates.
TEMPLATES = [
    "{% for i in [1, 1, 2] if i in [1, 2] and i != 3 %}{{ loop.changed(i, messages) }}{% endfor %}",
    "{% for m in messages %}{{ loop.changed(m.role) }}{{ loop.changed() }}{% endfor %}",
    "{% set i = 1 %}{{ messages[i:] | length }}{{ messages[:i] | length }}{{ messages[-i].role }}{{ {i: 'a', 'b': i}[i] }}",
    "{% for m in messages %}{% if m in messages and m == messages[loop.index0] %}{{ m.role == ['user'][0] }}{% endif %}{% endfor %}",
    "a\r\nb\rc\n",
    "{% if true %}\r\na\r\n{% endif %}\r\nb",
    "{{ 'a\r\nb' }}",
    "a\n",
    "a\n\n",
    "\n",
    "{{ 'a' }}\n",
    "{% if true %}\n\na\n{% endif %}\n\nb\n",
    "  {% if true %}x{% endif %}  \n  y",
    "  {%+ if true %}x{% endif %}",
    "{% if true +%}\nx{% endif %}",
    "a {%- if true -%} b {%- endif -%} c",
    "a {{- ' b ' -}} c",
    "a\n  {#- comment -#}\n  b",
    "a {# comment #} b",
    "a\n  {# comment #}\nb",
    "a\n\t{% set x = 1 %}\nb",
    "x  {% set x = 1 %}\nb",
    "{{ '{{' }} {{ '%}' }} {{ '#}' }}",
    "{% raw %}{{ x }} {% if %}{% endraw %}",
    "{% raw -%}\n  {{ x }}  \n{%- endraw %} y",
    "a {%- raw %} b {% endraw -%} c",
    "{#\nmulti\nline\n#}x",
    "{# {{ x }} #}y",
    "{%- for m in messages -%}\n {{ m.role }} \n{%- endfor -%}",
    "{% for m in messages %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }};{% endfor %}",
    "{% for m in messages %}{{ loop.previtem.role }}|{{ loop.nextitem.role }};{% endfor %}",
    "{% for m in messages %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }}{% endfor %}",
    "{% for m in messages %}{{ loop.changed(m.role) }}{% endfor %}",
    "{% for m in messages %}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "{% for m in messages %}{% for n in messages %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}",
    "{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ loop.length }}{{ m.role }}{% endfor %}",
    "{% for m in [] %}x{% else %}empty{% endfor %}",
    "{% for m in undefined_name %}x{% else %}empty{% endfor %}",
    "{% for m in 3 %}x{% endfor %}",
    "{% for c in 'abc' %}{{ c }}-{% endfor %}",
    "{% for k in {'a': 1, 'b': 2} %}{{ k }}{% endfor %}",
    "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k, v in {'b': 1, 'a': 2} | dictsort %}{{ k }}={{ v }};{% endfor %}",
    "{% for k, v in messages[0] | items %}{{ k }}={{ v }};{% endfor %}",
    "{% for (a, b) in [(1, 2), [3, 4]] %}{{ a }}{{ b }}{% endfor %}",
    "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for a, b in [(1, 2, 3)] %}{{ a }}{% endfor %}",
    "{% for m in messages recursive %}{{ m.role }}{% endfor %}",
    "{% for n in [1, [2, [3]]] recursive %}{% if n is number %}{{ n }}{% else %}({{ loop(n) }}){% endif %}{% endfor %}",
    "{% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% for i in range(3) %}{% break %}{% else %}e{% endfor %}",
    "{% for i in range(3) %}{{ i }}{% else %}e{% endfor %}",
    "{% break %}",
    "{% set x = 1 %}{% for i in range(3) %}{% set x = x + i %}{% endfor %}{{ x }}",
    "{% for i in range(3) %}{{ x is defined }}{% set x = i %}{{ x }}{% endfor %}",
    "{% set ns = namespace(x=1) %}{% for i in range(3) %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace() %}{% set ns.a = 1 %}{{ ns.a }}{{ ns.b }}{{ ns.b is defined }}",
    "{% set ns = namespace(l=[]) %}{% set ns.l = ns.l + ['a'] %}{% set ns.l = ns.l + ['b'] %}{{ ns.l }}",
    "{% set ns = namespace(found=false) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.found = true %}{% endif %}{% endfor %}{{ ns.found }}",
    "{% set d = {} %}{% set d.a = 1 %}{{ d }}",
    "{% set d = {'a': 1} %}{% set _ = d.update({'b': 2}) %}{{ d }}",
    "{% set l = [] %}{% set _ = l.append(1) %}{{ l }}",
    "{% set l = [] %}{% do l.append(1) %}{{ l }}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}",
    "{% set (a, b) = (1, 2) %}{{ a }}{{ b }}",
    "{% set a = 1, 2 %}{{ a }}",
    "{% set a, b = (1, 2, 3) %}",
    "{% set x %}hello {{ 1.0 }}{% endset %}{{ x }}|{{ x | upper }}",
    "{% set x | upper %}hello{% endset %}{{ x }}",
    "{% set x %}<b>{% endset %}{{ x ~ '<i>' }}{{ x is string }}",
    "{% if undefined_name %}a{% elif 1 %}b{% else %}c{% endif %}",
    "{% if messages[0].role == 'user' %}{% set x = 'u' %}{% endif %}{{ x }}",
    "{% if false %}{% set x = 'u' %}{% endif %}{{ x }}|{{ x is defined }}",
    "{% if true %}{% if false %}x{% endif %}{% endif %}y",
    "{% with %}{% set x = 1 %}{{ x }}{% endwith %}{{ x }}",
    "{% with x = 1, y = 2 %}{{ x }}{{ y }}{% endwith %}",
    "{% macro f(a, b=2) %}{{ a }}{{ b }}{% endmacro %}{{ f(1) }}{{ f(1, 3) }}{{ f(b=1, a=0) }}",
    "{% macro f(a) %}{{ a }}|{% endmacro %}{{ f() }}",
    "{% macro f(a) %}{{ a is defined }}{% endmacro %}{{ f() }}",
    "{% macro f() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, x=3) }}",
    "{% macro f(a) %}{{ a }}{{ varargs | length }}{% endmacro %}{{ f(1, 2, 3) }}",
    "{% macro f(a) %}{% for v in varargs %}[{{ v }}]{% endfor %}{% endmacro %}{{ f(1, 2, 3) }}",
    "{% macro f(a) %}{% for k, v in kwargs.items() %}{{ k }}={{ v }};{% endfor %}{% endmacro %}{{ f(1, x=2, y=3) }}",
    "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, 2) }}",
    "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, x=2) }}",
    "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, a=2) }}",
    "{% macro f() %}{{ caller() }}{% endmacro %}{% call f() %}x{% endcall %}",
    "{% macro f() %}{{ caller(1) }}{% endmacro %}{% call(a) f() %}x{{ a }}{% endcall %}",
    "{% macro f() %}{{ caller is defined }}{% endmacro %}{{ f() }}",
    "{% macro f() %}  a  {% endmacro %}{{ f() | trim }}|{{ f() ~ 'b' }}|{{ f().strip() }}",
    "{% macro f() %}\n  a\n{% endmacro %}{{ f() }}",
    "{% macro f(x) %}{% if x > 0 %}{{ x }}{{ f(x - 1) }}{% endif %}{% endmacro %}{{ f(3) }}",
    "{% set x = 1 %}{% macro f() %}{{ x }}{% endmacro %}{% set x = 2 %}{{ f() }}",
    "{% for m in messages %}{% macro f() %}{{ m.role }}{% endmacro %}{{ f() }}{% endfor %}",
    "{{ f() }}{% macro f() %}x{% endmacro %}",
    "{% macro f(m) -%}\n  {{- m.role -}}\n{%- endmacro -%}\n{{ f(messages[0]) }}",
    "{% filter upper %}abc{{ 'd' }}{% endfilter %}",
    "{% filter replace('a', 'b') | upper %}abc{% endfilter %}",
    "{% block x %}inside{% endblock %}",
    "{% block x %}inside{% endblock x %}{{ self.x() }}",
    "{% include 'x' %}",
    "{% import 'x' as y %}",
    "{% extends 'x' %}",
    "{% trans %}x{% endtrans %}",
    "{% debug %}",
    "{% generation %}a{% endgeneration %}b",
    "{%- generation -%}\n a \n{%- endgeneration -%} b",
    "{% generation %}{% set x = 1 %}{% endgeneration %}{{ x is defined }}",
    "{% for m in messages %}{% generation %}{{ loop.index }}{{ m.role }}{% endgeneration %}{% endfor %}",
    "{% for m in messages %}{% generation %}{% break %}{% endgeneration %}{% endfor %}",
    "{% set generation = 1 %}{{ generation }}",
    "{{ '{% generation %}' }}",
    "{{ raise_exception('no') }}",
    "{{ raise_exception('no ' ~ 1.0) }}",
    "{% if %}",
    "{{ }}",
    "{{ 1 ",
    "{% nonsense %}",
    "{% endif %}",
    "{{ 'a }}",
    "{{ a b }}",
    "{% for x in messages %}",
    "{{ messages | tojson(indent=2) }}",
    "{{ bos_token }}{{ eos_token }}{{ pad_token is defined }}{{ unk_token }}",
    "{{ tools }}{{ documents }}{{ tools is none }}{{ add_generation_prompt }}",
    "{% if add_generation_prompt %}p{% endif %}{% if enable_thinking is defined %}t{% endif %}",
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<' + message['role'] + '>' + message['content'] | trim + '</>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}",
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('x') }}{% endif %}{{ message.role }}{% endfor %}",
    "{%- set system_message = messages[0]['content'] if messages[0]['role'] == 'system' else '' -%}[{{ system_message }}]",
    "{% set messages = messages[1:] %}{{ messages | length }}",
    "{{ messages[0].content if messages[0].content is string else messages[0].content[0].text }}",
    "{% if messages[0].content is sequence and messages[0].content is not string %}parts{% else %}text{% endif %}",
    "{% if messages[0].content is iterable and messages[0].content is not mapping %}a{% endif %}",
    "{% if messages[0].tool_calls %}t{% endif %}{% if 'tool_calls' in messages[0] %}u{% endif %}{% if messages[0].tool_calls is defined %}v{% endif %}",
    "{{ 'a' -}}   \n\n  {{- 'b' }}",
    "a{{- '' }}   {{ '' -}}b",
    "{%- if true %} a{% endif -%}\n",
    "{{'a'}}{{\"b\"}}",
    "{{\n'a'\n}}",
    "{%\nif true\n%}x{%\nendif\n%}",
    "# not a line statement\n## x",
    "{% set s = 'a' %}{% set s = s ~ 'b' %}{{ s }}",
    "{% set s = 'a' %}{% set s += 'b' %}{{ s }}",
    "{% for i in range(3) %}{{ i }}{{ ',' if not loop.last }}{% endfor %}",
    "{% for i in range(3) -%}\n {{ i }}\n{% endfor %}",
    "{% for i in range(2) %}\n  {{ i }}\n{% endfor %}\n",
    "{% set ns = namespace(i=0) %}{% for m in messages %}{% set ns.i = ns.i + 1 %}{% endfor %}{{ ns.i / 2 }}",
    "{% set x = messages | length %}{{ x // 2 }}{{ x / 2 }}{{ x * 1.5 }}",
    "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}",
    "{% set j = joiner(', ') %}{% for m in messages %}{{ j() }}{{ m.role }}{% endfor %}",
    "{% set x = {'a': [1, 2]} %}{{ x.a[0] }}{{ x['a'][-1] }}{{ x.a | last }}",
    "{% set x = none %}{{ x.a }}",
    "{% set x = none %}{{ x.a is defined }}",
    "{% set x = 'text' %}{{ x.a is defined }}",
    "{% set m = messages | selectattr('role', 'equalto', 'system') | list %}{{ m }}{% if m %}x{% endif %}",
    "{% set m = messages | selectattr('role', 'equalto', 'system') %}{% if m %}x{% endif %}",
    "{% set m = messages | map(attribute='role') %}{{ m | list }}{{ m | list }}",
    "{% set m = messages[0].items() %}{{ m | list }}{{ m | length }}",
    "{% set text = 'a<think>b</think>c' %}{{ text.split('</think>')[-1] }}{{ text.split('<think>')[0] }}{{ (text.split('</think>') | first).split('<think>') | last }}",
    "{%- macro render(content) -%}{%- if content is string -%}{{ content }}{%- elif content is none -%}{%- else -%}{%- for part in content -%}{{ part.text }}{%- endfor -%}{%- endif -%}{%- endmacro -%}{{ render(messages[0].content) }}|{{ render(none) }}|{{ render([{'text': 'p'}]) }}",
    "{% set x = 5 %}{{ 'a' if x > 3 else 'b' }}{{ x is divisibleby 5 }}{{ x is odd }}",
    "{{ ['a', 'b'] | map('upper') | join('-') }}{{ [1, 2] | map('string') | list }}",
    "{{ messages | map(attribute='content') | map('trim') | join('\\n') }}",
    "{{ (messages | map(attribute='role') | list).index('assistant') }}",
    "{{ messages.index(messages[1]) }}",
    "{% set x = [] %}{% set x = x + [messages[0]] %}{{ x | length }}{{ x[0].role }}",
    "{{ [messages[0]] + messages[1:] == messages }}",
    "{{ messages[::-1][0].role }}{{ (messages | reverse | first).role }}",
    "{{ messages | list == messages }}",
    "{{ messages[0] == {'role': 'user', 'content': 'Hi there'} }}",
    "{{ '%s: %s' | format('a', 2) }}{{ '%.2f' | format(1) }}{{ '%s' | format([1, 'a']) }}{{ '%r' | format('x') }}",
    "{% for m in messages %}{{ '<' ~ m.role ~ '>' ~ (loop.index * 1.5) ~ ' ' ~ (loop.index / 3) }}{% endfor %}",
    "{{ messages[0].content.replace('Hi', 'Ho').replace(' ', '_') }}",
    "{{ messages[0].content | replace('H', 'h') | replace('e', '') }}",
    "{{ 1 }}\n{{ 2 }}\n\n",
    "{% set m = messages | map(attribute='role') %}{% for r in m %}{{ loop.index }}/{{ loop.length }}{{ r }}{% endfor %}{% for r in m %}again{% endfor %}",
    "{% if messages | selectattr('role', 'equalto', 'tool') | list %}x{% else %}y{% endif %}",
    "{% for m in messages | selectattr('role', 'equalto', 'user') %}{{ m.content }}{{ loop.first }}{{ loop.last }}{% endfor %}",
    "{% for m in messages | reverse %}{{ m.role }}{{ loop.revindex }}{% endfor %}",
    "{% for a in messages | batch(1) %}{{ a | length }}{{ a[0].role }}{% endfor %}",
    "{% for k in messages[0].keys() %}{{ k }}{{ loop.length }}{% endfor %}",
    "{% for k in messages[0].keys() | list %}{{ k }}{% endfor %}",
    "{% for role, group in messages | groupby('role') %}{{ role }}{{ group | length }}{% endfor %}",
    "{% for g in messages | groupby('role') %}{{ g.grouper }}{{ g.list | length }}{% endfor %}",
    "{% set a = 'x' ~ 1 %}{% if a ~ 'y' == 'x1y' %}ok{% endif %}{% for c in 'a' ~ 'b' %}{{ c }};{% endfor %}",
    "{% set ns = namespace(t='') %}{% for m in messages %}{% set ns.t = ns.t ~ m.role ~ loop.index %}{% endfor %}{{ ns.t }}",
    "{% for i in range(5) if i % 2 %}{{ i }}{% endfor %}",
    "{% for i in range(4) %}{{ 'odd' if i % 2 else 'even' }}{% endfor %}",
    "{% if messages | length % 2 == 0 %}a{% endif %}",
    "{% if loop_index % 2 %}a{% endif %}",
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}x{% else %}y{% endif %}{% endfor %}",
    "{%- for m in messages %}{{- '%d. %s' % (loop.index, m.role) }}\n{%- endfor %}",
    "{% macro f(x) %}{{ x ~ '!' }}{% endmacro %}{{ f('a' ~ 'b') ~ f('c') }}",
    "{% macro f() %}{{ varargs | join(',') }}{% endmacro %}{{ f() }}|{{ f(1) }}|{{ f('a', 'b' ~ 'c') }}",
    "{% macro f(a, b='x') %}{{ a }}{{ b }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1) }}{{ f(1, 2, 3) }}{{ f(1, c=4) }}{{ f(b=2, a=1) }}",
    "{% macro f() %}{{ kwargs.x }}{{ kwargs | length }}{% endmacro %}{{ f(x=1, y=2) }}{{ f() }}",
    "{% macro f(a) %}{{ a }}{{ varargs | length }}{{ caller() }}{% endmacro %}{% call f(1, 2) %}in{% endcall %}",
    "{% macro g(a) %}[{{ a }}]{% endmacro %}{% macro f() %}{{ g(varargs[0]) }}{% endmacro %}{{ f('z') }}",
    "{% macro f(a, b=[1, 2], c={'k': (1, 2)}) %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ f('x', c=3) }}",
    "{% macro f(a, n=bos_token) %}{{ n }}{{ a }}{% endmacro %}{{ f('x') }}",
    "{% set f = namespace(x=1) %}{{ f.x % 2 }}{{ f.x ~ f.x }}",
    "{% set x %}a ~ b % c{% endset %}{{ x }}",
    "a ~ b % c {# d ~ e #}",
    "{% raw %}{{ a ~ b }}{% endraw %}{{ 'c' ~ 'd' }}",
    "{% raw %}{% generation %}{% endraw %}",
    "{# {% generation %} #}{{ 'a' }}",
    "{%+ generation +%}\n a{%+ endgeneration +%}\nb",
    "{% with a = 'x' ~ 'y', b = 3 % 2 %}{{ a }}{{ b }}{% endwith %}",
    "{% filter replace('a' ~ 'b', 'c') %}abab{% endfilter %}",
    "{% for i in range(3) %}{% for j in range(3) %}{% if j == 1 %}{% break %}{% endif %}{{ i }}{{ j }}{% endfor %}{% if i == 1 %}{% break %}{% endif %}{% endfor %}",
    "{% macro f() %}{% for i in range(3) %}{% if i == 1 %}{% break %}{% endif %}{{ i }}{% endfor %}{% endmacro %}{{ f() }}",
    "{{ messages[0]\n  .content\n  | upper }}",
    "{{ 'a' ~\n  'b' ~\n\n  'c' }}",
    "{% set s = \"it's\" ~ ' \"x\"' %}{{ s }}{{ [s] }}",
    "{{ [messages[0].content, 'it\\'s'] }}",
    "{{ {'content': messages[1].content, 'n': 1.0} }}",
    "{% set parts = [] %}{% for m in messages %}{% set parts = parts + [m.role] %}{% endfor %}{{ parts }}",
    "{%- set ns = namespace(parts=[]) -%}{%- for m in messages -%}{%- set ns.parts = ns.parts + [m.role ~ ':' ~ m.content] -%}{%- endfor -%}{{ ns.parts | join('|') }}",
    "{{- '<think>\\n' ~ '\\n</think>' -}}",
    "{%- set content = '<a>' + messages[0].content + '</a>' %}{{ content[3:-4] }}{{ content.split('>')[1].split('<')[0] }}",
    "{% if messages[-1].role == 'assistant' and not add_generation_prompt %}a{% elif messages[-1]['role'] != 'user' %}b{% endif %}",
    "{% if not messages[0].get('tool_calls') and messages[0].get('content', '') != '' %}a{% endif %}",
    "{% for message in messages[:-1] %}{{ message.role }}{% endfor %}{{ messages[-1].content }}",
    "{% for message in (messages[1:] if messages[0].role == 'user' else messages) %}{{ message.role }}{% endfor %}",
    "{% set first = true %}{% for m in messages %}{{ '' if first else ', ' }}{{ m.role }}{% set first = false %}{% endfor %}",
    "{% set i = 0 %}{% for m in messages %}{% set i = i + 1 %}{{ i }}{% endfor %}{{ i }}",
    "\ufeffa",
    "{{ 'x' }}\u2028{{ 'y' }}\x0b",
    "{% if true %}\t\n x{% endif %}",
    "{% if true %} \n x{% endif %}",
]

# Jinja renders these; fedward refuses them by name.
NOT_SUPPORTED = r"""
'{!r}'.format('a')
(1).bit_length()
'½'.isdigit()
'½'.isnumeric()
'²'.isdigit()
'Abc Def'.istitle()
'abc'.isidentifier()
'ß'.casefold()
'a\tb'.expandtabs(4)
'abc'.encode()
'abc'.translate({97: 'b'})
'abc'.maketrans('a', 'b')
dict([('a', 1)])
dict.fromkeys(['a', 'b'], 1)
'hello world how are you' | wordwrap(10)
'hello\nworld how' | wordwrap(7, true, '|')
[1, 2, 3] | reverse
[1, 2, 3] | random is defined
{'b': 1, 'A': 2} | dictsort(true)
messages | map(attribute='role')
'<a>' | forceescape
'<b>x</b>  y' | striptags
'a b&c' | urlencode
{'a': 1, 'b': 'x y'} | urlencode
1234567 | filesizeformat
{'class': 'x'} | xmlattr
[1, {'a': 'b'}] | pprint
'see http://a.b/c' | urlize
'\u00e9\x41\101\N{BULLET}'
1,
1, 2
strftime_now('%#Z')
strftime_now('%E')
strftime_now('%Q')
strftime_now('%i')
strftime_now('%v')
strftime_now('%+')
strftime_now('% d')
strftime_now('%s') is string
strftime_now(format='%Y')
'%*d' % (5, 3)
'{:%}'.format(0.25)
'١٢' | int
"""
NOT_SUPPORTED_TEMPLATES = [
    "{% set a, b = 'xy' %}{{ a }}{{ b }}",
    "{% set x = 1 %}{% with x = 2, y = x %}{{ x }}{{ y }}{% endwith %}{{ x }}",
    "{% macro f(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ f(1) }}",
    "{% autoescape true %}{{ '<a>' }}{% endautoescape %}",
    "{% for i in range(3) %}{% if i == 1 %}{% with %}{% continue %}{% endwith %}{% endif %}{{ i }}{% endfor %}",
    "{% for i in range(3) %}{% set x %}{% break %}{% endset %}{% endfor %}",
]

# Here Jinja refuses what fedward is lenient about (comparisons of mixed types, loops over none), or writes what no template means
# to: an address, the name of a type, what the engine calls its own things.
OTHERWISE = r"""
1 < 'a'
none < 1
1 in 'abc'
[1, 2, 3][1.0]
{'items': 3}.items
{'get': 3}.get
range(3)
range(0)
lipsum is defined
range(3) | tojson
[1, 'a'] | sort
messages | groupby('role')
'a' | attr('upper')
self is defined
1 . real
messages | map(attribute='role') | last
1 < 2 ~ ''
[[2], [1], [2]] | unique | list
{'a': 1, 2: 'x'} | tojson(sort_keys=true)
"""
OTHERWISE_TEMPLATES = [
    "{% for m in none %}x{% endfor %}",
    "{% macro f() %}x{% endmacro %}{{ f.name }}{{ f.arguments }}{{ f.catch_varargs }}{{ f.caller }}",
]


def rendered(template, kind):
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    found = {"kind": kind, "template": template}
    try:
        compiled = chat_template_utils._compile_jinja_template(template)
        text = compiled.render(messages=MESSAGES, tools=None, documents=None, add_generation_prompt=True, **tokens)
        text.encode()  # lone surrogates are no text
        return found | {"text": re.sub(" at 0x[0-9a-f]+", " at an address", text)}
    except Exception as error:  # what a template cannot do in Python
        return found | {"error": type(error).__name__}


def expressions(block):
    """Lines, those that go on after a line feed inside quotes joined again."""
    open_line = ""
    for line in block.strip("\n").split("\n"):
        line = open_line + line
        open_line = line + "\n" if line.endswith("\\") or line == '"multi' else ""
        if not open_line:
            yield "{{ " + line + " }}"


def main():
    kinds = {
        "same": [*expressions(EXPRESSIONS), *TEMPLATES],
        "not supported": [*expressions(NOT_SUPPORTED), *NOT_SUPPORTED_TEMPLATES],
        "otherwise": [*expressions(OTHERWISE), *OTHERWISE_TEMPLATES],
    }
    every = [template for templates in kinds.values() for template in templates]
    assert len(every) == len(set(every)), [template for template in every if every.count(template) > 1]
    lines = ",\n".join(json.dumps(rendered(template, kind)) for kind, templates in kinds.items() for template in templates)
    print(f"[\n{lines}\n]")


if __name__ == "__main__":
    main()
